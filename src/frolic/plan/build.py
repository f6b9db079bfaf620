"""What will be built, decided and checked before a weight is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import torch

from frolic.accel.memory import free_bytes
from frolic.accel.stream import block_number
from frolic.errors import CheckpointError, ModelNotFoundError, RequestError, nearest
from frolic.io.files import read_json_object
from frolic.io.folder import INDEX, Component, ModelFolder, open_folder, read_component
from frolic.io.problems import Problems
from frolic.io.safetensors import Entry, read_headers
from frolic.keymap import KeyMap
from frolic.lora.experts import EXPERTS, LOW, said_by
from frolic.models.layouts import DIFFUSERS, locate, maps_of
from frolic.models.registry import families
from frolic.plan.dtypes import choose_dtypes
from frolic.plan.find import Watch, choose_device, find_model
from frolic.request import Request
from frolic.spec import ComponentSpec, FamilySpec, Published, SamplingDefaults
from frolic.types import Compat

COMPATS: tuple[Compat, ...] = get_args(Compat)
"""Whose reading of a model to follow where the two differ."""
MEMORY = ("auto", "full", "low", "blocks")
TILING = ("auto", "on", "off")
_MOST_OF_MEMORY = 0.8
"""Weights up to this share of the free memory stay loaded: the rest is for what is computed with them."""


@dataclass(frozen=True)
class Part:
    """One module to build: its config, where its tensors lie and under which names, and its dtype in memory.

    ``layout`` is the naming, as ``diffusers`` or ``original``; ``path`` what a person would call its place.
    """

    name: str
    spec: ComponentSpec
    config: Any
    layout: str
    keymap: KeyMap
    entries: Mapping[str, Entry]
    path: Path
    dtype: torch.dtype = torch.float32

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self._size(self.keymap.wanted(self.entries).values())

    @property
    def streamed_bytes(self) -> int:
        """What it takes in memory while one of its blocks is computed with and the next one comes."""
        used = self.keymap.wanted(self.entries)
        numbers = {name: block_number(self.keymap.ours(name)) for name in used}
        blocks: Counter[int] = Counter()
        for name, number in numbers.items():
            if number is not None:
                blocks[number] += self._size([used[name]])
        rest = self._size(used[name] for name, number in numbers.items() if number is None)
        return rest + sum(size for _, size in blocks.most_common(2))

    def _size(self, entries: Iterable[Entry]) -> int:
        return sum(math.prod(entry.shape) for entry in entries) * self.dtype.itemsize


@dataclass(frozen=True)
class BuildPlan:
    """All parts of a model and how they will live in memory. ``published`` is which published one it is, if known;
    ``compat`` is whose reading of it to follow. ``settings`` are the files besides weights that decide what it draws;
    ``notes`` is what the user should know of how it was read."""

    name: str
    version: str
    path: Path
    family: FamilySpec
    parts: Mapping[str, Part]
    tokenizer: Path
    defaults: SamplingDefaults
    prompt_suffix: str
    device: torch.device
    settings: tuple[Path, ...]
    published: Published | None = None
    compat: Compat = "diffusers"
    memory: str = "auto"
    tiling: str = "auto"
    notes: tuple[str, ...] = ()
    allow_partial: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's, which is the one a user chooses."""
        return self.parts["transformer"].dtype

    def weight_bytes(self) -> int:
        """What all parts take in memory."""
        return sum(part.bytes for part in self.parts.values())

    def mode(self) -> str:
        """``full``, ``low`` (parts are loaded one after the other) or ``blocks`` (and of those that have blocks, one at
        a time): as asked, or the first that fits."""
        if self.memory != "auto":
            return self.memory
        if self.fits(self.device):
            return "full"
        return "low" if self._most_at_once() <= _MOST_OF_MEMORY * free_bytes(self.device) else "blocks"

    def fits(self, device: torch.device, more: int = 0) -> bool:
        """Whether all parts together, and ``more`` bytes, leave room to compute on ``device``."""
        return self.weight_bytes() + more <= _MOST_OF_MEMORY * free_bytes(device)

    def _most_at_once(self) -> int:
        """The largest part; a ControlNet works beside the transformer."""
        sizes = {name: part.bytes for name, part in self.parts.items()}
        sizes["transformer"] += sizes.pop("controlnet", 0)
        return max(sizes.values())

    @property
    def weights(self) -> tuple[Path, ...]:
        """Every file with weights, in a fixed order."""
        return tuple(sorted({entry.file for part in self.parts.values() for entry in part.entries.values()}))

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that decides what the model draws, in a fixed order: weights, settings, tokenizer."""
        return (*self.weights, *self.settings)


def make_plan(
    model: str | Path,
    *,
    dtype: str | torch.dtype | None = "auto",
    device: str | torch.device | None = "auto",
    variant: str | None = None,
    base: str | Path | None = None,
    controlnet: str | Path | None = None,
    vae: str | Path | None = None,
    compat: Compat = "diffusers",
    memory: str = "auto",
    tiling: str = "auto",
    allow_partial: bool = False,
    watch: Watch | None = None,
) -> BuildPlan:
    """Decide how to build ``model``: a short name, a folder in diffusers' layout, ``org/name[@rev]`` on the Hub, or a
    single file with a transformer in any layout, for which ``base`` (any of the others) gives the remaining parts.

    ``dtype``: ``auto`` is what the checkpoint is known to be safe and fast in on ``device``. ``variant``: which of
    several weight files, ``fp16`` or ``bf16``; None takes the one that suits the dtype. ``controlnet`` and ``vae``:
    such a part, instead of the model's own. ``compat``: ``native`` follows the authors' code where diffusers differs.
    ``memory``: ``full`` keeps all parts loaded, ``low`` one after the other, ``blocks`` one block of one part, ``auto``
    decides by what is free. ``tiling``: whether pictures are decoded in pieces. ``allow_partial``: whether adapters may
    hold what is of no use to the model. ``watch`` hears of downloads.

    Raises:
        ModelNotFoundError: nothing is there.
        UnsafeFileError: a pickle is there.
        CheckpointError: what is there cannot be used.
        NetworkError: it would have to be fetched and cannot be.
        RequestError: the dtype, the device or the variant does not exist, or does not suit this model.
    """
    for name, value, allowed in (("compat", compat, COMPATS), ("memory", memory, MEMORY), ("tiling", tiling, TILING)):
        if value not in allowed:
            raise RequestError(f"{name} is {value!r}; give {' or '.join(allowed)}{nearest(str(value), allowed) or '.'}")
    chosen_device = choose_device(device)
    path = origin = find_model(model, watch, variant=variant)
    if path.is_file() and base is None:
        raise ModelNotFoundError(
            f"{path} is one file, without all that a model needs; give --base MODEL, a model that has the other parts."
        )
    if base is not None:
        if not path.is_file():
            raise RequestError(f"{model} is a whole model; leave out --base.")
        path = find_model(base, watch, variant=variant)
    folder = open_folder(path, families())
    specs = {**folder.family.components, **folder.family.optional}
    loose: dict[str, Part] = {}
    notes: list[str] = []
    for name, given in (
        ("transformer", origin if base is not None else None),
        ("controlnet", controlnet),
        ("vae", vae),
    ):
        if given is not None:
            if name not in specs:
                raise RequestError(f"Models like {folder.name} ({folder.family.name}) have no {name}; leave it out.")
            place = find_model(given, watch, [name])
            part = _one_file(name, place, folder, notes) if place.is_file() else _loose(name, specs[name], place)
            loose[part.name] = part
    known, alike = _published(folder, model, next((loose[name] for name in EXPERTS if name in loose), None))
    own = {name: part for name, part in folder.components.items() if name not in loose}
    first = {**{name: _part(part, variant) for name, part in own.items()}, **loose}
    entries = {name: first[name].entries for name in specs if name in first}
    dtypes = choose_dtypes(dtype, chosen_device, entries, known, alike, folder.family.dtypes)
    # What is stored in the very dtype is less to read.
    better = {name: _variant_of(part, dtypes[name], variant) for name, part in own.items()}
    best = {name: _part(own[name], chosen) for name, chosen in better.items() if chosen != variant}
    ordered = {name: {**first, **best}[name] for name in specs if name in first}
    plan = BuildPlan(
        name=folder.name if origin is path else origin.stem,
        version=folder.version if origin is path else "",
        path=origin,
        family=folder.family,
        parts=MappingProxyType({name: replace(part, dtype=dtypes[name]) for name, part in ordered.items()}),
        tokenizer=folder.tokenizer,
        defaults=_defaults(folder, known, compat),
        prompt_suffix=folder.prompt_suffix,
        device=chosen_device,
        settings=(
            *folder.settings,
            *(file for part in loose.values() for file in [part.path / "config.json"] if file.is_file()),
        ),
        published=known,
        compat=compat,
        memory=memory,
        tiling=tiling,
        notes=tuple(notes),
        allow_partial=allow_partial,
    )
    _check_parts(plan)
    _check_defaults(plan)
    return plan


def _variant_of(component: Component, dtype: torch.dtype, asked: str | None) -> str | None:
    """The file to read for ``dtype``: the one that was asked for, or one that is stored so and is not the first."""
    fitting = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "")
    others = list(component.weights)[1:]
    return fitting if asked is None and fitting in others else asked


def _part(component: Component, variant: str | None) -> Part:
    """A folder's part, read from the wanted variant; None is the plain one, or the first that there is."""
    have = component.weights
    if variant is not None and variant not in have:
        said = ", ".join(name or "the plain one" for name in have)
        raise RequestError(f"There is no variant {variant!r} of the {component.name}; there is {said}.")
    place = have[variant] if variant is not None else next(iter(have.values()))
    entries = read_headers(place)
    # The names decide: a Gemma 2 comes with its vocabulary head around it or without, whatever its class is called.
    keymap, layout = component.spec.keymap(component.config), DIFFUSERS
    if not keymap.knows(next(iter(entries), "")):
        maps = maps_of(component.spec, component.config)
        layout = max(maps, key=lambda name: sum(maps[name].knows(key) or maps[name].drops(key) for key in entries))
        keymap = maps[layout]
    return Part(component.name, component.spec, component.config, layout, keymap, entries, place.parent)


def _loose(name: str, spec: ComponentSpec, path: Path) -> Part:
    """A part that is given beside a model: its own folder, or that of a pipeline which has one."""
    place = path / name if (path / INDEX).is_file() else path
    said = read_json_object(place / "config.json").get("_class_name") if (place / "config.json").is_file() else None
    if said not in spec.class_names:
        raise CheckpointError(
            f"{place} holds {said or 'no config.json'}, but a {name} is needed ({', '.join(spec.class_names)})."
        )
    problems = Problems(f"The {name} in {place} cannot be used; get its files again or choose another")
    component = read_component(place, name, spec, problems)
    problems.raise_any(CheckpointError)
    assert component is not None
    return _part(component, None)


def _one_file(wanted: str, path: Path, base: ModelFolder, notes: list[str]) -> Part:
    """The part in one file, whose layout and config are found from the names and shapes of its tensors and, where they
    leave something open, from the model it is to be used with. Of two experts it is the one that the file's name says,
    or the first."""
    configs = {name: component.config for name, component in base.components.items()}
    found = locate(read_headers(path), families(), str(path), configs, family=base.family.name)
    if found.part != wanted:
        raise CheckpointError(f"{path} holds a {found.part}, not a {wanted}; give the file of a {wanted}.")
    notes += found.assumed
    if wanted in EXPERTS and EXPERTS.keys() <= base.components.keys():
        low = said_by(path.stem, {}, {}) == LOW
        wanted = next(part for part, expert in EXPERTS.items() if (expert == LOW) == low)
        kept, level = ("first", "little") if low else ("second", "much")
        notes.append(f"{path.name} is the expert for {level} noise; the {kept} one is {base.name}'s.")
    return Part(wanted, found.spec, found.config, found.layout, found.keymap, found.entries, path)


def _published(
    folder: ModelFolder, model: str | Path, loose: Part | None
) -> tuple[Published | None, tuple[Published, ...]]:
    """Which published model this is, by the name it was asked for or stored under; and all that have its config, for
    those who renamed one of them, or trained it further."""
    config = loose.config if loose else folder.components["transformer"].config
    alike = tuple(entry for entry in folder.family.published if entry.config == config)
    names = {Path(model).stem} if loose else {str(model).partition("@")[0], folder.name, folder.path.resolve().name}
    for entry in alike:
        stem = entry.repo.rpartition("/")[2]
        if names & {entry.name, entry.repo, stem, stem.removesuffix("_diffusers"), Path(entry.original).stem}:
            return entry, alike
    return None, alike


def _defaults(folder: ModelFolder, known: Published | None, compat: str) -> SamplingDefaults:
    defaults = replace(folder.defaults, **known.defaults) if known else folder.defaults
    return folder.family.native(defaults) if compat == "native" else defaults


def _check_parts(plan: BuildPlan) -> None:
    """Refuse parts that are each in order but do not belong together."""
    configs = {name: part.config for name, part in plan.parts.items()}
    transformer, vae, text = (configs[name] for name in ("transformer", "vae", "text_encoder"))
    problems = Problems(f"The parts of the model in {plan.path} do not fit each other; get its files again")
    for what, one, other in (
        ("colour channels", vae.in_channels, 3),
        ("text width", text.width, transformer.caption_channels),
    ):
        if one != other:
            problems.add(what, f"{one} and {other}")
    for what, said in plan.family.misfits(configs, plan.defaults):
        problems.add(what, said)
    problems.raise_any(CheckpointError)


def _check_defaults(plan: BuildPlan) -> None:
    """Refuse defaults that nobody could ask for: the limits are a request's."""
    names = ("negative_prompt", "steps", "guidance_scale", "height", "width", "sampler", "schedule", "instruction")
    try:
        Request.of("", **{name: getattr(plan.defaults, name) for name in names})
    except RequestError as error:
        said = str(error).partition(": ")[2].rstrip(".")
        raise CheckpointError(f"The defaults of the model in {plan.path} cannot be used: {said}.") from error
