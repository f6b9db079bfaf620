"""Where an adapter's weights lie: one file, or the folder that PEFT or diffusers saved it in, whole or in shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frolic.errors import CheckpointError, ModelNotFoundError
from frolic.io.files import read_json_object
from frolic.io.problems import Problems
from frolic.io.safetensors import Entry, read_header, read_headers, refuse_pickle

_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_INDEXES = tuple(f"{name}.index.json" for name in _FILES)
_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Found:
    """An adapter's weights. ``path`` is the file, or the index of its shards; ``files`` are all that hold tensors, in a
    fixed order; ``peft`` is what PEFT's settings beside them say; ``name`` what to call it."""

    path: Path
    files: tuple[Path, ...]
    peft: dict[str, Any] | None
    name: str

    def entries(self) -> dict[str, Entry]:
        """Where every tensor lies. Raises as ``frolic.io.safetensors.read_headers``."""
        return read_headers(self.path)

    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself; of shards, what the first one says. Raises as ``entries``."""
        return read_header(self.files[0]).metadata if self.files else {}


def find(path: Path) -> Found:
    """The adapter at ``path``, or in it where it is a folder. No tensor is read.

    Raises:
        ModelNotFoundError: there is none, or several to choose from.
        UnsafeFileError: there are only pickles.
        CheckpointError: listing all files that a folder means and that lie outside of it.
    """
    path = path.expanduser()
    if not path.exists():
        raise ModelNotFoundError(f"There is no adapter {path}; give a .safetensors file or a folder with one.")
    chosen = _inside(path) if path.is_dir() else path
    usual = chosen.name in (*_FILES, *_INDEXES)
    # A config beside a file of another name is another adapter's.
    config = [beside] if usual and (beside := chosen.parent / _CONFIG).is_file() else []
    if path.is_dir():
        _keep_inside(path, [chosen, *config])
    files: tuple[Path, ...] = (chosen,)
    if chosen.name in _INDEXES:
        files = _shards(chosen)
        _keep_inside(chosen.parent, files)
    name = (_called(chosen.parent.resolve()) if usual else chosen.name).removesuffix(".safetensors")
    return Found(chosen, files, read_json_object(config[0]) if config else None, name)


def _called(folder: Path) -> str:
    """A folder's name; in the Hub's cache, where a commit is all that it is called by, the repository's."""
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.name


def _inside(folder: Path) -> Path:
    named = [folder / name for name in (*_FILES, *_INDEXES) if (folder / name).is_file()]
    if named:
        return named[0]
    inside = sorted(entry for entry in folder.iterdir() if entry.suffix == ".safetensors")
    if len(inside) == 1:
        return inside[0]
    said = f"{len(inside)} .safetensors files" if inside else "no .safetensors file"
    for entry in [] if inside else sorted(folder.iterdir()):
        refuse_pickle(entry) if entry.is_file() else None
    raise ModelNotFoundError(f"{folder} holds {said}; name the adapter's file itself.")


def _shards(index: Path) -> tuple[Path, ...]:
    """What an index says the shards are; whether it is right is for whoever reads them."""
    said = read_json_object(index).get("weight_map")
    names = said.values() if isinstance(said, dict) else ()
    return tuple(index.parent / name for name in sorted({name for name in names if isinstance(name, str)}))


def _keep_inside(folder: Path, files: Iterable[Path]) -> None:
    """Refuse a folder that points out of itself: by a name in its index, or by a link."""
    roots = tuple(_roots(folder.resolve()))
    problems = Problems(f"{folder} points out of itself, and nothing of it was read; put the adapter's files into it")
    for file in files:
        try:
            place = file.resolve()
        except (OSError, RuntimeError, ValueError):  # a link to itself, or no name that a file can have
            place = Path()
        if not any(place.is_relative_to(root) for root in roots):
            inside = file.is_relative_to(folder)
            problems.add("outside of the adapter's folder", str(file.relative_to(folder) if inside else file))
    problems.raise_any(CheckpointError)


def _roots(place: Path) -> Iterator[Path]:
    """The folder itself; in the Hub's cache, which keeps every file behind a link, also where its links lead."""
    yield place
    if place.parent.name == "snapshots":
        yield place.parent.parent / "blobs"
