"""Check files from the Hub against the hashes that they were published with, which the cache keeps as their names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frolic.errors import ModelError
from frolic.io.cache import files_in, missing_from, size_of
from frolic.io.files import reason

_CHUNK = 1 << 20
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Check:
    """What ``verify`` found: ``unchecked`` files have no known hash, ``damaged`` ones are not what they should be, and
    ``missing`` is what a whole pipeline has besides (``vae/*.safetensors``: weights of any kind)."""

    files: int
    size: int
    problems: tuple[str, ...]
    unchecked: tuple[str, ...]
    damaged: tuple[Path, ...]
    missing: tuple[str, ...]


def verify(folder: Path, progress: Callable[[int, int, str], None] | None = None) -> Check:
    """Compare every file under a snapshot's ``folder`` with the hash that its blob is named by: the one that the Hub
    listed for it when it was fetched.

    ``progress`` gets bytes done, bytes in all and a file. Files that did not come from the Hub have no known hash; of
    theirs the weights' headers are read.
    """
    blobs = _blobs(folder)
    problems: list[str] = []
    unchecked: list[str] = []
    damaged: list[Path] = []
    files, done = files_in(folder), 0
    total = size_of(files)
    for file in files:
        name = file.relative_to(folder).as_posix()
        try:
            blob = _blob(file, blobs)
            if blob is None or not _HASH.fullmatch(blob.name):
                unchecked.append(name)
                if broken := [*_broken_header(file, name)]:
                    problems += broken
                    damaged.append(file)
                continue
            for step in _hashing(file, file.stat().st_size, blob.name):
                done += step
                if progress is not None:
                    progress(done, total, name)
        except _Damaged:
            problems.append(f"{name} is not the file that was published")
            damaged.append(file)
        except OSError as error:
            problems.append(f"{name} cannot be read ({reason(error)})")
            damaged.append(file)
    lost = {file.relative_to(folder).as_posix() for file in damaged}
    missing = tuple(name for name in missing_from(folder)[1] if name not in lost)
    problems += [f"{name} is missing" for name in missing]
    return Check(len(files), total, tuple(problems), tuple(unchecked), tuple(damaged), missing)


def blob_hash(size: int, expected: str) -> Any:
    """The hash object for a file of ``size`` bytes that ``expected`` is a digest of: git's for 40 digits, else
    SHA-256."""
    if len(expected) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


class _Damaged(Exception):
    """A file's bytes do not have the hash they should."""


def _hashing(file: Path, size: int, expected: str) -> Iterator[int]:
    """Read ``file``, giving the bytes of each step; raises ``_Damaged`` at its end."""
    digest = blob_hash(size, expected)
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            yield len(chunk)
    if digest.hexdigest() != expected:
        raise _Damaged


def _blobs(folder: Path) -> dict[tuple[int, int], Path]:
    """The blobs of the repository that ``folder`` is a snapshot of, by inode: where the system has no symbolic links,
    a snapshot's file is a second name of its blob."""
    found = {}
    for blob in (folder.parent.parent / "blobs").glob("*") if folder.parent.name == "snapshots" else ():
        status = blob.stat() if blob.exists() else None
        if status is not None:
            found[status.st_dev, status.st_ino] = blob
    return found


def _blob(file: Path, blobs: dict[tuple[int, int], Path]) -> Path | None:
    if file.is_symlink():
        return file.parent / file.readlink()
    status = file.stat()
    return blobs.get((status.st_dev, status.st_ino))


def _broken_header(file: Path, name: str) -> Iterator[str]:
    if file.suffix == ".safetensors":
        from frolic.io.safetensors import read_header

        try:
            read_header(file)
        except ModelError as error:
            yield f"{name}: {error}"
