"""Models from the Hugging Face Hub as they lie on this machine, in the cache that all its libraries share.

Read without the network and without ``huggingface_hub``. The layout: ``models--ORG--NAME/`` holds
``refs/REVISION`` (a text file with a commit), ``snapshots/COMMIT/PATH`` (links) and ``blobs/HASH`` (the files, named
by the SHA-256 of a large one and by the git hash of a small one, which is what makes checking possible).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from frolic.errors import FileError, ModelNotFoundError
from frolic.io.files import reason
from frolic.io.hub_files import INDEX, absent
from frolic.io.hub_names import HubName, cache_folder

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Snapshot:
    """One commit of a cached repository. ``missing`` is what a pipeline needs and is not there."""

    commit: str
    refs: tuple[str, ...]
    path: Path
    pipeline: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class CachedRepo:
    """A cached repository; ``size`` in bytes on the disk, ``partial`` of it in downloads that were cut off."""

    repo: str
    path: Path
    size: int
    partial: int
    snapshots: tuple[Snapshot, ...]


def snapshot(name: HubName, components: Iterable[str] | None = None, variant: str | None = None) -> Snapshot | None:
    """What the cache has of ``name``, whole or not: ``missing`` says what a pipeline lacks, or these ``components``."""
    commit = _commit(name)
    return _snapshot(name.folder(), commit, components, variant) if commit else None


def cached(name: HubName, components: Iterable[str] | None = None, variant: str | None = None) -> Snapshot | None:
    """What the cache has of ``name``, if it is all that a pipeline needs, or these ``components`` of one, with the
    weights in ``variant``, by default in any."""
    found = snapshot(name, components, variant)
    return found if found is not None and not found.missing else None


def origin(path: Path) -> HubName | None:
    """The name and commit of which ``path`` is the cached snapshot, or None where it is another folder."""
    parts = Path(os.path.abspath(path)).parts  # noqa: PTH100 (links must stay: they lead into blobs/)
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None
    return HubName(parts[-3].removeprefix("models--").replace("--", "/"), parts[-1], parts[-1])


def listing() -> tuple[CachedRepo, ...]:
    """Every model repository in the cache, by name."""
    try:
        folders = sorted(entry for entry in cache_folder().iterdir() if entry.name.startswith("models--"))
    except OSError:
        return ()
    return tuple(repo for folder in folders if (repo := look(folder)) is not None)


def look(folder: Path) -> CachedRepo | None:
    """What is in one repository's ``folder`` of the cache, or None where there is none."""
    if not folder.is_dir():
        return None
    commits = sorted(entry.name for entry in (folder / "snapshots").glob("*") if entry.is_dir())
    snapshots = (_snapshot(folder, commit) for commit in commits)
    files = [file for file in files_in(folder) if not file.is_symlink()]
    return CachedRepo(
        repo=folder.name.removeprefix("models--").replace("--", "/"),
        path=folder,
        size=size_of(files),
        partial=size_of(file for file in files if file.suffix == ".incomplete"),
        snapshots=tuple(found for found in snapshots if found is not None),
    )


def remove(name: HubName) -> int:
    """Delete ``name`` from the cache: all of it, or with a revision only that snapshot and what no other one uses.

    Returns the bytes freed.

    Raises:
        ModelNotFoundError: the cache has nothing of it.
        FileError: something of it cannot be deleted.
    """
    folder = name.folder()
    before = look(folder)
    commit = _commit(name) if name.revision else ""
    if before is None or (name.revision and commit not in [each.commit for each in before.snapshots]):
        raise ModelNotFoundError(f"{name} is not in the cache; `frolic models list` shows what is.")
    if folder.is_symlink():
        raise FileError(f"{folder} is a link to another place; delete what it points to, and it, yourself.")
    try:
        if name.revision and len(before.snapshots) > 1:
            _remove_snapshot(folder, commit)
        else:
            # Names first: a deletion that is cut short must not leave a snapshot that seems whole.
            for part in ("refs", "snapshots"):
                if (folder / part).is_dir():
                    shutil.rmtree(folder / part)
            shutil.rmtree(folder)
    except OSError as error:
        raise FileError(f"{folder} cannot be deleted ({reason(error)}); check its permissions.") from error
    left = look(folder)
    return before.size - (left.size if left else 0)


def size_text(size: float) -> str:
    """``3.2 GB`` for a number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"


def _commit(name: HubName) -> str:
    """The commit that the cache knows for ``name``: itself, what a ref holds, or the one that starts so."""
    folder = name.folder()
    if COMMIT.fullmatch(name.ref):
        return name.ref
    try:
        commit = (folder / "refs" / name.ref).read_text("ascii").strip()
        return commit if COMMIT.fullmatch(commit) else ""
    except (OSError, ValueError):
        pass
    if not re.fullmatch(r"[0-9a-f]{7,39}", name.ref):
        return ""
    found = [entry.name for entry in (folder / "snapshots").glob(f"{name.ref}*")]
    return found[0] if len(found) == 1 else ""


def _snapshot(
    folder: Path, commit: str, components: Iterable[str] | None = None, variant: str | None = None
) -> Snapshot | None:
    path = folder / "snapshots" / commit
    if not path.is_dir():
        return None
    pipeline, missing = missing_from(path, components, variant)
    return Snapshot(commit, _refs(folder, commit), path, pipeline, tuple(missing))


def missing_from(
    path: Path, components: Iterable[str] | None = None, variant: str | None = None
) -> tuple[str, list[str]]:
    """The class that ``model_index.json`` names, and what a pipeline needs and is not there."""
    try:
        index = json.loads((path / INDEX).read_bytes())
    except FileNotFoundError:
        index = {}
    except (OSError, ValueError, RecursionError):
        return "", [INDEX]
    if not isinstance(index, dict):
        return "", [INDEX]
    there = [file.relative_to(path).as_posix() for file in files_in(path) if file.exists()]
    chosen = None if components is None else tuple(components)
    return str(index.get("_class_name", "")), absent(there, index, chosen, variant)


def _refs(folder: Path, commit: str) -> tuple[str, ...]:
    found = []
    for file in files_in(folder / "refs"):
        try:
            if not file.name.startswith(".") and file.read_text("ascii").strip() == commit:
                found.append(file.relative_to(folder / "refs").as_posix())
        except (OSError, ValueError):
            continue
    return tuple(found)


def files_in(folder: Path) -> list[Path]:
    """Every file and link under ``folder``, in order; links are not followed."""
    found = [Path(at, name) for at, _, names in os.walk(folder) for name in names]
    return sorted(found)


def size_of(files: Iterable[Path]) -> int:
    """Bytes in ``files``, each counted once."""
    seen: dict[tuple[int, int], int] = {}
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        seen[status.st_dev, status.st_ino] = status.st_size
    return sum(seen.values())


def _remove_snapshot(folder: Path, commit: str) -> None:
    for ref in _refs(folder, commit):
        (folder / "refs" / ref).unlink()
    shutil.rmtree(folder / "snapshots" / commit)
    kept = files_in(folder / "snapshots")
    used = {os.path.normpath(file.parent / file.readlink()) for file in kept if file.is_symlink()}
    same = {(status.st_dev, status.st_ino) for file in kept if file.exists() and (status := file.stat())}
    for blob in files_in(folder / "blobs"):
        status = blob.lstat()
        if os.path.normpath(blob) not in used and (status.st_dev, status.st_ino) not in same:
            blob.unlink()
