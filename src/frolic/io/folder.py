"""Open a model folder in diffusers' layout: every setting is read and checked before a weight is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from frolic.errors import CheckpointError, ModelError, ModelNotFoundError, UnsafeFileError, nearest
from frolic.io.files import read_json_object
from frolic.io.problems import Problems
from frolic.io.safetensors import VARIANTS, find_weights, refuse_pickle
from frolic.io.schedulers import SCHEDULER, SHIFTS, read_scheduler
from frolic.io.tokenizer import find_tokenizer
from frolic.sampling.solvers import SAMPLERS
from frolic.spec import ComponentSpec, FamilySpec, SamplingDefaults

if TYPE_CHECKING:
    from frolic.io.hub_names import HubName

INDEX, OWN = "model_index.json", "frolic.json"
_NOT_WEIGHTS = ("scheduler", "tokenizer")


@dataclass(frozen=True)
class Component:
    """One part with weights: ``config`` is what its spec made of ``config.json``; ``weights`` the files or shard
    indexes it can be read from, by variant (``""`` is the plain one)."""

    name: str
    spec: ComponentSpec
    config: Any
    weights: Mapping[str, Path]


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose settings were all understood. ``name`` never holds a path; a model from the Hub is called
    ``org/name`` there, and its ``version`` is the commit."""

    path: Path
    name: str
    version: str
    family: FamilySpec
    components: Mapping[str, Component]
    tokenizer: Path
    defaults: SamplingDefaults
    prompt_suffix: str

    @property
    def settings(self) -> tuple[Path, ...]:
        """The files besides the weights that decide what the model draws, in a fixed order."""
        configs = [self.path / name / "config.json" for name in sorted(self.components)]
        own = [self.path / OWN] if (self.path / OWN).is_file() else []
        return (*configs, self.path / SCHEDULER, *own, self.tokenizer)


_OWN_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "family": str,
    "name": str,
    "version": str,
    "height": int,
    "width": int,
    "steps": int,
    "guidance_scale": (int, float),
    "sampler": str,
    "shift": (int, float),
    "max_tokens": int,
    "negative_prompt": str,
    "lowercase": bool,
    "prompt_suffix": str,
    "instruction": str,
    "frames": int,
    "fps": (int, float),
    "guidance_scale_2": (int, float),
    "clean_first": bool,
    "refine": int,
}

# What is in a request too has a request's limits, which hold for the defaults as a whole.
_LIMITS: Mapping[str, tuple[float, float]] = {"shift": SHIFTS, "max_tokens": (1, 8192), "refine": (1, 1000)}


def open_folder(path: Path, families: Mapping[str, FamilySpec]) -> ModelFolder:
    """Read and check ``model_index.json``, every ``config.json``, the scheduler's settings and ``frolic.json``.

    Raises:
        ModelNotFoundError: ``path`` is not a model folder.
        UnsafeFileError: it is a pickle, or holds only pickles.
        CheckpointError: listing everything in it that is missing, unknown or unsupported.
    """
    if path.is_file():
        refuse_pickle(path)
        raise ModelNotFoundError(f"{path} is a file; give the model's folder, the one that holds {INDEX}.")
    if not path.is_dir():
        raise ModelNotFoundError(f"There is no model folder {path}; check the name.")
    if not (path / INDEX).is_file():
        for file in path.iterdir():
            if file.is_file():
                refuse_pickle(file)
        raise ModelNotFoundError(f"{path} is not a model folder: it has no {INDEX}; give the folder that holds one.")
    index = read_json_object(path / INDEX)
    family = _family(path, index.get("_class_name"), families)
    problems = Problems(f"The model in {path} cannot be used; get its files again or choose another")
    expected = [*family.components, *family.optional, *_NOT_WEIGHTS, *family.settings]
    for key, value in index.items():
        if key not in expected and not key.startswith("_") and value not in (None, [None, None]):
            problems.add("unknown component", key, near=expected)
    said = _index_settings(index, family, problems)
    optional = {name: spec for name, spec in family.optional.items() if index.get(name) not in (None, [None, None])}
    components = {}
    for name, spec in {**family.components, **optional}.items():
        component = _component(path, name, spec, index.get(name), problems)
        if component is not None:
            components[name] = component
    tokenizer = find_tokenizer(path / "tokenizer", problems)
    scheduled = read_scheduler(path, problems)
    own = _own(path, family, problems)
    problems.raise_any(CheckpointError)
    named = {field.name for field in fields(SamplingDefaults)}
    hub = _origin(path)
    followed = family.adapt({name: component.config for name, component in components.items()})
    stated = {**followed, **said, **scheduled, **{key: own[key] for key in own if key in named}}
    defaults = replace(family.defaults, **stated)
    return ModelFolder(
        path=path,
        name=own.get("name", hub.repo if hub else path.resolve().name),
        version=own.get("version", hub.commit if hub else ""),
        family=family,
        components=MappingProxyType(components),
        tokenizer=tokenizer,
        defaults=defaults,
        prompt_suffix=own.get("prompt_suffix", ""),
    )


def _index_settings(index: Mapping[str, Any], family: FamilySpec, problems: Problems) -> dict[str, Any]:
    """What ``model_index.json`` itself says of sampling, by the defaults' names."""
    said: dict[str, Any] = {}
    for key, name in family.settings.items():
        value = index.get(key)
        if value is None:
            continue
        usual = getattr(family.defaults, name)
        if isinstance(usual, bool) != isinstance(value, bool):
            problems.add("settings", f"{INDEX}: {key} is {value!r}")
        elif not isinstance(value, bool) and not (_number(value) and 0 < value < 1):
            problems.add("settings", f"{INDEX}: {key} is {value!r}; it must be between 0 and 1")
        else:
            said[name] = value
    return said


def _origin(path: Path) -> HubName | None:
    """Which model of the Hub the folder is, if it is in the cache."""
    if "snapshots" not in path.resolve().parts:
        return None
    from frolic.io.cache import origin

    return origin(path)


def _family(path: Path, class_name: Any, families: Mapping[str, FamilySpec]) -> FamilySpec:
    for family in families.values():
        if class_name in family.pipeline_classes:
            return family
    known = [name for family in families.values() for name in family.pipeline_classes]
    hint = nearest(str(class_name), known) or f"; supported: {', '.join(known)}."
    raise CheckpointError(f"{path / INDEX} names the pipeline {class_name!r}, which frolic does not know{hint}")


def _component(path: Path, name: str, spec: ComponentSpec, entry: Any, problems: Problems) -> Component | None:
    """The part in ``path/name``, or None after noting what is wrong with it."""
    class_name = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
    if class_name not in spec.class_names:
        problems.add("unsupported", f"{name} is {class_name!r}, supported: {', '.join(spec.class_names)}")
        return None
    if not (path / name).is_dir():
        problems.add("missing", f"{name}/")
        return None
    return read_component(path / name, name, spec, problems)


def read_component(path: Path, name: str, spec: ComponentSpec, problems: Problems) -> Component | None:
    """The part whose ``config.json`` and weights lie in ``path``, or None after noting what is wrong with it.

    Raises:
        UnsafeFileError: its weights are pickles only.
    """
    config = None
    try:
        config = spec.configure(read_json_object(path / "config.json"))
    except CheckpointError as error:
        problems.add("settings", f"{name}: {error}")
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        problems.add("settings", f"{name}/config.json has a value of the wrong kind ({error})")
    weights = {}
    refusals: list[ModelError] = []
    for variant in VARIANTS:
        try:
            weights[variant] = find_weights(path, variant)
        except ModelError as error:
            refusals.append(error)
    if not weights:
        if isinstance(refusals[0], UnsafeFileError):
            raise refusals[0]
        problems.add("weights", str(refusals[0]))
    return None if config is None or not weights else Component(name, spec, config, MappingProxyType(weights))


def _own(path: Path, family: FamilySpec, problems: Problems) -> dict[str, Any]:
    """``frolic.json``, where the folder has one."""
    if not (path / OWN).is_file():
        return {}
    try:
        raw = read_json_object(path / OWN)
    except CheckpointError as error:
        problems.add("settings", str(error))
        return {}
    for key, value in raw.items():
        if key not in _OWN_KEYS:
            problems.add("unknown setting", f"{OWN}: {key}", near=[f"{OWN}: {known}" for known in _OWN_KEYS])
        elif said := _unfit(key, value):
            problems.add("settings", f"{OWN}: {key} {said}")
    if raw.get("family", family.name) != family.name:
        problems.add("settings", f"{OWN}: family is {raw['family']!r}, but {INDEX} is one of {family.name!r}")
    if raw.get("sampler", "euler") not in [*SAMPLERS]:
        problems.add("settings", f"{OWN}: sampler {raw['sampler']!r} is not known")
    # A model of ours reads its prompts as they are, unless it says otherwise; the family's instruction is for others.
    return {"instruction": "", **raw}


def _unfit(key: str, value: Any) -> str:
    """What is wrong with a setting of ``frolic.json``, if anything."""
    kind = _OWN_KEYS[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return f"is {value!r}"
    if kind is str:
        return "" if _plain(str(value)) else "is not valid Unicode text"
    if kind is bool:
        return ""
    low, high = _LIMITS.get(key, (0, math.inf))
    number: Any = value
    if not _number(number) or number <= 0:
        return f"is {value!r}; it must be above 0"
    return "" if low <= number <= high else f"is {value!r}; it must be {low} to {high}"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _plain(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)
