"""Folders in diffusers' layout: they appear whole, in shards where large, with the parts that another model gives."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frolic.convert.job import Job
from frolic.errors import CheckpointError, FileError
from frolic.io.files import check_writable, read_json_object, write_error, write_json
from frolic.io.folder import INDEX, OWN, ModelFolder
from frolic.io.problems import Problems
from frolic.io.safetensors import VARIANTS, read_headers
from frolic.models.layouts import parts_of
from frolic.models.registry import families
from frolic.spec import FamilySpec

CONFIG, STEM = "config.json", "diffusion_pytorch_model"
_VARIANT = "|".join(filter(None, VARIANTS))
_WEIGHTS = re.compile(
    rf"(?:{STEM}|model)(\.(?:{_VARIANT}))?(-\d{{5}}-of-\d{{5}}(\.(?:{_VARIANT}))?)?\.safetensors"
    rf"(\.index(\.(?:{_VARIANT}))?\.json|\.(?:{_VARIANT})\.index\.json)?"
)
_OTHERS = {
    "scheduler": re.compile(r"(scheduler_)?config\.json"),
    "tokenizer": re.compile(
        r"tokenizer(_config)?\.json|(tokenizer|spiece)\.model|special_tokens_map\.json|added_tokens\.json|vocab\.json"
        r"|merges\.txt|chat_template\.jinja"
    ),
}


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """A folder on the disk of ``target`` that is gone when the block ends.

    Raises:
        FileError, ResourceError: it cannot be made.
    """
    try:
        path = Path(tempfile.mkdtemp(prefix=".frolic-", dir=target.parent))
    except OSError as error:
        raise write_error(error, target) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def check_folder(target: Path, *, whole: bool, force: bool) -> None:
    """Refuse a destination that could not be written, before time is spent on what would go there.

    Raises:
        FileError: something is there and ``force`` is not set, or it is nothing that a folder of this kind, a ``whole``
            pipeline or one part, may replace, because it is not one itself or holds more than one does, all of which
            is listed; or its parent is missing or closed to us.
    """
    if not target.is_dir():
        check_writable(target)
        return
    if any(target.iterdir()):
        if not force:
            raise FileError(
                f"{target} already exists; choose another name, or pass --force (force=True) to replace it."
            )
        there = INDEX if whole else CONFIG
        if not (target / there).is_file() or (target / INDEX).is_file() != whole:
            kind = "a model's folder" if whole else "a part's folder"
            raise FileError(f"{target} is not {kind} (it has no {there} or more beside it); choose another name.")
        problems = Problems(f"{target} holds more than a model and is not replaced; choose another name")
        for name in _foreign(target, whole):
            problems.add("not a model's", name)
        problems.raise_any(FileError)
    check_writable(target / "model")


def _foreign(target: Path, whole: bool) -> Iterator[str]:
    """Whatever in ``target`` no pipeline, or no part, of ours would hold."""
    if not whole:
        specs = [spec for family in families().values() for spec in parts_of(family).values()]
        yield from _foreign_in_part(target, {name for spec in specs for name in spec.class_names}, "")
        return
    family = _family(target / INDEX)
    if family is None:
        yield INDEX
        return
    parts = parts_of(family)
    for entry in sorted(target.iterdir()):
        if entry.is_file() and entry.name in (INDEX, OWN):
            continue
        if not entry.is_dir() or entry.name not in (*parts, *_OTHERS):
            yield entry.name
        elif entry.name in parts:
            yield from _foreign_in_part(entry, set(parts[entry.name].class_names), f"{entry.name}/")
        else:
            for file in sorted(entry.iterdir()):
                if not (file.is_file() and _OTHERS[entry.name].fullmatch(file.name)):
                    yield f"{entry.name}/{file.name}"


def _foreign_in_part(folder: Path, classes: Set[str], where: str) -> Iterator[str]:
    for entry in sorted(folder.iterdir()):
        if entry.name == CONFIG and entry.is_file():
            if class_of(_settings(entry)) not in classes:
                yield f"{where}{CONFIG}"
        elif not (entry.is_file() and _WEIGHTS.fullmatch(entry.name)):
            yield f"{where}{entry.name}"


def _family(index: Path) -> FamilySpec | None:
    said = class_of(_settings(index))
    return next((family for family in families().values() if said in family.pipeline_classes), None)


def _settings(file: Path) -> Mapping[str, Any]:
    try:
        return read_json_object(file)
    except CheckpointError:
        return {}


def class_of(raw: Mapping[str, Any]) -> str:
    """The class that a settings file names, or nothing."""
    architectures = raw.get("architectures")
    said = raw.get("_class_name") or (architectures[0] if isinstance(architectures, list) and architectures else "")
    return said if isinstance(said, str) else ""


def check_apart(target: Path, inputs: Iterable[Path]) -> None:
    """Refuse a destination that one of the ``inputs`` is, or lies in: it would be gone when it is replaced.

    Raises:
        FileError: in that case.
    """
    place = target.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(place):
            raise FileError(f"{target} would replace {path}, which is read for it; choose another name.")


def publish(made: Path, target: Path) -> None:
    """Give the finished folder ``made`` its name; what was there goes."""
    old = made.with_name("old")
    try:
        if target.exists():
            target.rename(old)
        made.rename(target)
    except BaseException as error:  # Ctrl-C too
        if old.exists() and not target.exists():
            old.rename(target)
        if isinstance(error, OSError):
            raise write_error(error, target) from error
        raise


def write_part(job: Job, folder: Path, shard_bytes: int, metadata: Mapping[str, str] | None = None) -> None:
    """``config.json`` and the weights, in one file or in shards with their index, each file with the ``metadata``.
    ``folder`` is made.

    Raises as ``Job.write``.
    """
    folder.mkdir(parents=True)
    write_json(folder / CONFIG, job.found.config.to_json())
    groups = _shards(job, shard_bytes)
    if len(groups) == 1:
        job.write({folder / f"{STEM}.safetensors": groups[0]}, metadata=metadata)
        return
    names = [f"{STEM}-{index:05d}-of-{len(groups):05d}.safetensors" for index in range(1, len(groups) + 1)]
    job.write({folder / name: group for name, group in zip(names, groups, strict=True)}, metadata=metadata)
    index = {
        "metadata": {"total_size": sum(maker.bytes for maker in job.makers.values())},
        "weight_map": {key: name for name, group in zip(names, groups, strict=True) for key in group},
    }
    write_json(folder / f"{STEM}.safetensors.index.json", index)


def _shards(job: Job, limit: int) -> list[list[str]]:
    """Names in order, in as few runs as hold at most ``limit`` bytes each (or one tensor that is larger)."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, maker in job.makers.items():
        if groups[-1] and size + maker.bytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += maker.bytes
    return groups


def copy_rest(base: ModelFolder, out: Path, *parts: str) -> None:
    """Copy to ``out`` all of ``base`` but ``parts``: other parts, tokenizer, scheduler, and what describes the whole.

    Weights that ``base`` has in half precision only lose that from their names, so that every program finds them.

    Raises:
        FileError, ResourceError: they cannot be copied.
    """
    try:
        shutil.copyfile(base.path / INDEX, out / INDEX)
        for name in ("scheduler", "tokenizer"):
            (out / name).mkdir()
            for file in sorted((base.path / name).iterdir()):
                if file.is_file() and file.suffix in (".json", ".model", ".txt", ".jinja"):
                    shutil.copyfile(file, out / name / file.name)
        for name, component in base.components.items():
            if name in parts:
                continue
            (out / name).mkdir()
            shutil.copyfile(base.path / name / CONFIG, out / name / CONFIG)
            variant, weights = next(iter(component.weights.items()))
            _copy_weights(weights, out / name, variant)
        if (base.path / OWN).is_file():
            # Whose model it is cannot be known: the name and the version were those of the old one.
            own = read_json_object(base.path / OWN)
            write_json(out / OWN, {key: value for key, value in own.items() if key not in ("name", "version")})
    except OSError as error:
        raise write_error(error, out) from error


def _copy_weights(weights: Path, folder: Path, variant: str) -> None:
    shards = {entry.file for entry in read_headers(weights).values()} if weights.suffix == ".json" else set()
    for file in sorted(shards):
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(weights, folder / (weights.name.replace(f".{variant}.", ".") if variant else weights.name))
