"""Checkpoints that are whole or do not count.

A checkpoint is a folder of safetensors files and ``state.json``. It is written under a temporary name, every file is
flushed to the disk, ``complete.json`` (the size and SHA-256 of each file) comes last, and only then does the folder get
its name. Whatever stops the process, the newest folder with a matching ``complete.json`` is a good checkpoint.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from frolic.errors import CheckpointError, FrolicError
from frolic.io.files import write_error

_COMPLETE = "complete.json"
_STATE = "state.json"
_PREFIX = "step-"
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Snapshot:
    """Everything a run needs to go on: groups of named tensors (one file each) and plain data."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


class CheckpointStore:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint and drop the oldest beyond ``keep``. One that is there already for this step is kept.

        Raises:
            ResourceError: the disk is full. FileError: the folder cannot be written. Nothing half written stays.
        """
        target = self.folder / f"{_PREFIX}{snapshot.step:08d}"
        if is_checkpoint(target):
            return target
        partial = self.folder / f"{_UNFINISHED}{target.name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            partial.mkdir()
            _write(partial, snapshot)
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)
            _flush(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _explain(error, target) from error
        for old in self.complete()[: -self.keep]:
            # Renamed first: a kill in the middle of removing it must not leave a part of it under its name.
            shutil.rmtree(old.rename(self.folder / f"{_UNFINISHED}{old.name}"))
        return target

    def complete(self) -> list[Path]:
        """Checkpoints whose files have the sizes they were written with, oldest first."""
        found = self.folder.glob(f"{_PREFIX}*") if self.folder.is_dir() else ()
        return sorted(path for path in found if is_checkpoint(path))

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged checkpoint so that it no longer counts; the new path."""
        names = (path.with_name(f"damaged-{count}-{path.name}") for count in itertools.count(1))
        return path.rename(next(name for name in names if not name.exists()))

    def _sweep(self) -> None:
        for left in self.folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left)


def is_checkpoint(path: Path) -> bool:
    """Whether ``path`` is a checkpoint with every file at its full size."""
    try:
        files = json.loads((path / _COMPLETE).read_text("utf-8"))["files"]
        return all((path / name).stat().st_size == entry["size"] for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix(_PREFIX))


def load_checkpoint(path: Path) -> Snapshot:
    """Read a checkpoint, and check every byte of it.

    Raises:
        CheckpointError: it is not complete or was changed afterwards.
    """
    if not is_checkpoint(path):
        raise CheckpointError(f"{path} is not a complete checkpoint; choose another one.")
    files = json.loads((path / _COMPLETE).read_text("utf-8"))["files"]
    damaged = [name for name, entry in files.items() if _sha256(path / name) != entry["sha256"]]
    if damaged:
        raise CheckpointError(f"{path} is damaged ({', '.join(damaged)}); remove it to use the one before.")
    try:
        state = json.loads((path / _STATE).read_text("utf-8"))
        tensors = {name[: -len(".safetensors")]: load_file(path / name) for name in files if name != _STATE}
        return Snapshot(state["step"], tensors, state)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); choose another checkpoint.") from error


def _explain(error: OSError | SafetensorError, target: Path) -> FrolicError:
    # safetensors passes the system's error on as text.
    if isinstance(error, SafetensorError):
        error = OSError(errno.ENOSPC if "No space left" in str(error) else errno.EIO, str(error))
    return write_error(error, target)


def _write(folder: Path, snapshot: Snapshot) -> None:
    for group, tensors in snapshot.tensors.items():
        whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(_unshared(whole), folder / f"{group}.safetensors")
    (folder / _STATE).write_text(json.dumps({**snapshot.state, "step": snapshot.step}), "utf-8")
    files = {}
    for path in sorted(folder.iterdir()):
        _flush(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    marker = folder / _COMPLETE
    marker.write_text(json.dumps({"format": 1, "torch": torch.__version__, "files": files}), "utf-8")
    _flush(marker)
    _flush(folder)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory (tied weights) copied, as safetensors wants each stored by itself."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return result


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
