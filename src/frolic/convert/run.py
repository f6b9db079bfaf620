"""Read the source, decide, write, read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from frolic.convert.folder import (
    CONFIG,
    check_apart,
    check_folder,
    class_of,
    copy_rest,
    publish,
    workspace,
    write_part,
)
from frolic.convert.job import Job
from frolic.convert.reward import copy
from frolic.errors import CheckpointError, ModelNotFoundError, RequestError, nearest
from frolic.io.files import check_writable, read_json_object
from frolic.io.folder import INDEX, ModelFolder, open_folder
from frolic.io.pickled import unpickle
from frolic.io.problems import Problems
from frolic.io.safetensors import PICKLES, VARIANTS, Entry, find_weights, read_headers
from frolic.models.layouts import COMFY, DIFFUSERS, ORIGINAL, Located, locate, maps_of, parts_of
from frolic.models.registry import families
from frolic.plan import DTYPES, Watch, find_model, make_plan
from frolic.plan.dtypes import SHORT
from frolic.rewards.keymaps import recognise
from frolic.spec import ComponentSpec

TARGETS = (DIFFUSERS, ORIGINAL, "comfy")
SHARD_BYTES = 5 * 10**9
# What a file's name ends in, and a folder's never.
_FILES = PICKLES | {".safetensors", ".json", ".gguf", ".sft"}


@dataclass(frozen=True)
class Converted:
    """What was written: ``path`` is a file or a folder; ``left_out`` are tensors of the source that the target has no
    use for, ``assumed`` sentences about what the source does not say."""

    part: str
    source: str
    to: str
    path: Path
    tensors: int
    bytes: int
    left_out: tuple[str, ...]
    assumed: tuple[str, ...]


def convert(
    source: str | Path,
    target: str | Path,
    to: str = DIFFUSERS,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    shard_bytes: int | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> Converted:
    """Write the model at ``source`` to ``target`` in the naming ``to``.

    ``source`` is a pipeline's folder (of which the transformer is converted, to another pipeline's folder both if there
    are two, and to one file the first), a part's folder, a ``.safetensors`` in any naming, an index of shards, or a
    ``.pth``, which only a process of its own opens. ``to``: ``original`` and ``comfy`` are one file; ``diffusers`` is a
    part's folder, in shards of at most ``shard_bytes``, or a whole pipeline's folder where ``base``, a model in
    diffusers' layout, gives the other parts (a pipeline's folder is its
    own base). ``base`` also answers what a single file does not say. ``dtype`` (``float32``, ``bfloat16``,
    ``float16``) is for floating-point numbers; None keeps them. What is named and not here is fetched, only the
    transformer where that is enough; ``watch`` hears of it. A published reward's weights (``frolic.rewards``) keep
    their names: ``to`` is ``original``.

    Raises:
        RequestError: the target, the dtype or their combination does not exist, or ``target`` is no name for it.
        ModelNotFoundError, UnsafeFileError, CheckpointError: the source cannot be used; all its missing, unexpected and
            misshapen tensors are listed at once.
        FileError, ResourceError: the target cannot be written, or is there already and ``force`` is not set; also with
            ``force`` where it holds more than a model, or what is read.
    """
    target = Path(target).expanduser()
    wanted = _wanted(to, dtype, shard_bytes)
    _check_name(target, to)
    path = _find(source, watch, whole=to == DIFFUSERS and base is None)
    if base is None and to == DIFFUSERS and (path / INDEX).is_file():
        base = path
    origin = None if base is None else open_folder(find_model(base, watch), families())
    check_apart(target, [path] if origin is None else [path, origin.path])
    if to == DIFFUSERS:
        check_folder(target, whole=origin is not None, force=force)
    else:
        check_writable(target, force=force)
    with workspace(target) as work:
        entries, said = _entries(path, work)
        check_apart(target, {entry.file for entry in entries.values()})
        if kind := recognise(entries):
            if to != ORIGINAL or base is not None:
                raise RequestError(f"{path} belongs to a reward; give --to {ORIGINAL}, a file, and no --base.")
            size = copy(entries, target, path, wanted, force)
            return Converted(kind, "a reward's file", to, target, len(entries), size, (), tuple(filter(None, [said])))
        found = _open(path, origin, entries, said)
        check_apart(target, {entry.file for entry in found.entries.values()})
        if to == DIFFUSERS and origin is not None and found.part not in origin.components:
            raise RequestError(f"{base} has no {found.part} to be replaced; leave out --base.")
        names = maps_of(found.spec, found.config)
        if ORIGINAL not in names and (to != DIFFUSERS or wanted is None):
            raise RequestError(f"A {found.part} is published under one set of names; there is nothing to convert.")
        prefix = _prefix(found.part) if to == "comfy" else ""
        # From the authors' names to the authors' names even what is of no use here goes along.
        extra = prefix if to != DIFFUSERS and found.layout == ORIGINAL else None
        keymap = names[DIFFUSERS if to == DIFFUSERS else ORIGINAL].under(prefix)
        job = Job(found, keymap, path, dtype=wanted, extra=extra)
        jobs = [job, *(Job(each, keymap, path, dtype=wanted, extra=None) for each in _partner(path, found, to))]
        if to == DIFFUSERS:
            made = work / "made"
            for each in jobs:
                write_part(each, made if origin is None else made / each.found.part, shard_bytes or SHARD_BYTES)
            if origin is not None:
                copy_rest(origin, made, *(each.found.part for each in jobs))
                _check_whole(made, origin, found)
            # Again, because the work may have taken long.
            check_folder(target, whole=origin is not None, force=force)
            publish(made, target)
        else:
            job.write({target: list(job.makers)}, force=force)
    parts = " and ".join(each.found.part for each in jobs)
    makers = [maker for each in jobs for maker in each.makers.values()]
    size = sum(maker.bytes for maker in makers)
    return Converted(parts, found.layout, to, target, len(makers), size, job.left_out, found.assumed)


def _wanted(to: str, dtype: str | None, shard_bytes: int | None) -> torch.dtype | None:
    if to not in TARGETS:
        raise RequestError(f"There is no layout {to!r}; give {', '.join(TARGETS)}{nearest(to, TARGETS) or '.'}")
    if shard_bytes is not None and to != DIFFUSERS:
        raise RequestError(f"A model in the {to} layout is one file; leave out the shard size.")
    if shard_bytes is not None and shard_bytes < 1:
        raise RequestError(f"A shard of {shard_bytes} bytes holds nothing; give a larger size.")
    if dtype is None:
        return None
    name = SHORT.get(dtype, dtype)
    if name not in DTYPES:
        raise RequestError(f"dtype is {dtype!r}; give {', '.join(DTYPES)}{nearest(dtype, DTYPES) or '.'}")
    return DTYPES[name]


def _check_name(target: Path, to: str) -> None:
    suffix = target.suffix.lower()
    if target.name in ("", ".."):
        raise RequestError(f"{target} is no name for what is to be written; give one that ends in a name of your own.")
    if to == DIFFUSERS and suffix in _FILES:
        raise RequestError(
            f"{target.name} is a file's name, but the diffusers layout is a folder; leave out {suffix}, or give --to "
            "original or --to comfy."
        )
    if to != DIFFUSERS and suffix != ".safetensors":
        raise RequestError(f"{target.name} must end in .safetensors, because that is what the {to} layout is.")


def _find(source: str | Path, watch: Watch | None, *, whole: bool) -> Path:
    """Where ``source`` lies, the ``whole`` of it or at least its transformer."""
    path = Path(source).expanduser()
    try:
        if path.exists():
            return path
    except (OSError, ValueError):
        pass
    if not whole:
        try:
            return find_model(source, watch, ("transformer",))
        except ModelNotFoundError:
            # A repository may be one part, without a folder for it.
            pass
    return find_model(source, watch)


def _partner(path: Path, found: Located[Entry], to: str) -> list[Located[Entry]]:
    """The second expert of a pipeline's folder that is converted to another, which has to stay like the first."""
    second = path / "transformer_2"
    if to != DIFFUSERS or found.part != "transformer" or not (path / INDEX).is_file() or not second.is_dir():
        return []
    return [_component(second)]


def _prefix(part: str) -> str:
    if part not in COMFY:
        raise RequestError(f"ComfyUI has no naming of its own for a {part}; use --to original.")
    return COMFY[part]


def _entries(path: Path, work: Path) -> tuple[Mapping[str, Entry], str]:
    """The tensors of a file, a pickle's as they lie in ``work``, and what is to be said of it; none of a folder."""
    if path.is_dir():
        return {}, ""
    if path.suffix.lower() not in PICKLES:
        return read_headers(path), ""
    said = unpickle(path, work / "unpickled.safetensors")
    return read_headers(work / "unpickled.safetensors"), said


def _open(path: Path, origin: ModelFolder | None, entries: Mapping[str, Entry], said: str) -> Located[Entry]:
    """The part at ``path``: where its tensors lie, under which names, and its config. ``entries`` are a file's."""
    if path.is_dir():
        return _component(path / "transformer" if (path / INDEX).is_file() else path)
    known = {name: part.config for name, part in origin.components.items()} if origin else {}
    beside, ignored = _beside(path.parent / CONFIG)
    family = None if origin is None else origin.family.name
    found = locate(entries, families(), str(path), known, beside, family)
    if beside and not isinstance(found.config, type(beside.get(found.part))):
        ignored = f"{path.parent / CONFIG} is for a {next(iter(beside))} and was ignored."
    return replace(found, assumed=tuple(filter(None, (said, ignored, *found.assumed))))


def _beside(file: Path) -> tuple[Mapping[str, Any], str]:
    """The config that lies beside a single file, by its part, or a note that it belongs to something else."""
    if not file.is_file():
        return {}, ""
    try:
        raw = read_json_object(file)
    except CheckpointError:
        raw = {}
    if class_of(raw) not in _classes():
        return {}, f"{file} does not describe a part that frolic knows and was ignored."
    part, _, config = _configured(file)
    return {part: config}, ""


def _component(folder: Path) -> Located[Entry]:
    part, spec, config = _configured(folder / CONFIG)
    problem = None
    for variant in VARIANTS:
        try:
            weights = find_weights(folder, variant)
            break
        except ModelNotFoundError as error:
            problem = problem or error
    else:
        assert problem is not None
        raise problem
    return Located(part, spec, DIFFUSERS, "", spec.keymap(config), config, read_headers(weights))


def _configured(file: Path) -> tuple[str, ComponentSpec, Any]:
    """Which part a ``config.json`` is for, and what it says."""
    raw = read_json_object(file)
    said, known = class_of(raw), _classes()
    if said not in known:
        what = f"is for a {said!r}, which frolic does not know" if said else "names no class"
        raise CheckpointError(f"{file} {what}; supported: {', '.join(known)}.")
    # Of two experts, which are of one class, it is the one that the folder is called after.
    part = file.parent.name if file.parent.name in known[said] else next(iter(known[said]))
    spec = known[said][part]
    try:
        return part, spec, spec.configure(raw)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{file} has a value of the wrong kind ({error}); get the file again.") from error


def _classes() -> dict[str, dict[str, ComponentSpec]]:
    """The parts that a ``config.json`` may be for, by the class it names."""
    found: dict[str, dict[str, ComponentSpec]] = {}
    for family in families().values():
        for part, spec in parts_of(family).items():
            for name in spec.class_names:
                found.setdefault(name, {}).setdefault(part, spec)
    return found


def _check_whole(made: Path, origin: ModelFolder, found: Located[Entry]) -> None:
    """Refuse a pipeline whose parts do not belong together."""
    problems = Problems(f"The {found.part} does not fit the other parts of {origin.path}; give another --base")
    old = origin.components[found.part].config
    for name in ("in_channels", "caption_channels", "guidance_embeds"):
        one, other = getattr(found.config, name, None), getattr(old, name, None)
        if one != other:
            problems.add(name.replace("_", " "), f"{one} and {other}")
    problems.raise_any(CheckpointError)
    make_plan(made, device="cpu")
