"""Get models from the Hugging Face Hub into the cache that all its libraries share; what is there is used as it is.

The bytes are fetched over ``huggingface_hub``'s HTTP session (its login, proxies and certificates), but not by its
downloader, which starts a cut-off file over: here a download goes on where it stopped, also in another process, and
every file is checked against the hash that the Hub lists before it gets its name.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frolic.errors import ModelNotFoundError, NetworkError, ResourceError
from frolic.io.cache import cached, missing_from, size_text
from frolic.io.files import write_bytes, write_error
from frolic.io.hub_errors import explained, unreachable
from frolic.io.hub_files import select, variants
from frolic.io.hub_names import HubName, cache_folder, endpoint, named
from frolic.io.transfer import Transfer, fetch, is_here, partial_of

if TYPE_CHECKING:
    from frolic.spec import Published

Notify = Callable[[str], None]
Progress = Callable[[int, int, str], None]
"""Gets bytes done, bytes in all, and the file they belong to."""

_OFFLINE = ("FROLIC_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_SPARE = 64 * 1000**2
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ASK_SECONDS = 20.0


@dataclass(frozen=True)
class RemoteFile:
    """A file on the Hub: ``size`` in bytes, ``hash`` SHA-256 or git's, ``here`` the bytes that are cached already."""

    path: str
    size: int
    hash: str
    here: int


@dataclass(frozen=True)
class Offer:
    """What the Hub has of a model and frolic would fetch. ``variants`` are those that its weights come in."""

    name: HubName
    files: tuple[RemoteFile, ...]
    variants: frozenset[str]
    license: str
    gated: bool

    @property
    def size(self) -> int:
        """Bytes in all its files."""
        return sum(file.size for file in self.files)

    @property
    def to_fetch(self) -> int:
        """Bytes that are not here yet."""
        return sum(file.size - file.here for file in self.files)


@dataclass(frozen=True)
class Pulled:
    """A model that is wholly here: ``name.commit`` is the commit, ``fetched`` the bytes that had to be moved."""

    name: HubName
    path: Path
    fetched: int


def offline() -> bool:
    """Whether the network must not be used: ``FROLIC_OFFLINE``, ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``."""
    return any(os.environ.get(key, "").upper() in ("1", "ON", "YES", "TRUE") for key in _OFFLINE)


def resolve(
    model: str,
    published: Iterable[Published] = (),
    *,
    components: Collection[str] | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Path | None:
    """The folder of ``model``: a short name of ``published``, or ``org/name[@revision]``. None: it is no such name.

    What is cached is used, with no socket opened. What is not is fetched, after ``notify`` (by default a line on
    stderr) was told how much that is. ``components`` are the folders that are needed, by default a whole pipeline.

    Raises:
        ModelNotFoundError, AccessError, NetworkError, ResourceError, FileError: as ``pull``.
    """
    found = named(model, published)
    if found is None:
        return None
    name, variant = found
    here = cached(name, components)
    if here is not None:
        return here.path
    return pull(name, variant=variant, components=components, notify=notify or _to_stderr, progress=progress).path


def offer(name: HubName, *, variant: str = "", components: Collection[str] | None = None) -> Offer:
    """Ask the Hub what ``pull`` would fetch.

    Raises:
        ModelNotFoundError: there is no such repository, revision or component, or it has no ``.safetensors``.
        AccessError: its owner gives it only after a login or accepted terms.
        NetworkError: offline, or the Hub cannot be reached.
    """
    if offline():
        raise NetworkError(unreachable(name, f"this session is offline ({', '.join(_set_offline())} is set)"))
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=endpoint(), library_name="frolic")
        info = api.model_info(name.repo, revision=name.ref, files_metadata=True, timeout=_ASK_SECONDS)
    except Exception as error:
        raise explained(error, name) from error
    listed = {entry.rfilename: entry for entry in info.siblings or () if _plain(entry.rfilename)}
    chosen = select(listed, variant, components)
    _check_choice(name, listed, chosen, components)
    name = replace(name, commit=str(info.sha))
    return Offer(
        name=name,
        files=tuple(_remote(name, listed[path]) for path in chosen),
        variants=variants(listed),
        license=str(getattr(info.card_data, "license", None) or ""),
        gated=bool(info.gated),
    )


def pull(
    name: HubName,
    *,
    variant: str = "",
    components: Collection[str] | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Bring ``name`` into the cache, whole and checked; run again, it goes on where it was cut off.

    ``variant`` (``fp16``, ``bf16``) of the weights is preferred, else the plain ones are fetched. ``components`` are
    the folders to fetch, by default all. ``notify`` is told the size before anything is fetched.

    Raises:
        ModelNotFoundError, AccessError, NetworkError: as ``offer``; NetworkError also when the connection breaks or
            stalls again and again, or a file arrives damaged twice.
        ResourceError: the disk has no room for it.
        FileError: the cache cannot be written.
    """
    chosen = offer(name, variant=variant, components=components)
    if notify is not None:
        notify(_summary(chosen, variant))
    check_space(chosen)
    folder = name.folder()
    snapshot = folder / "snapshots" / chosen.name.commit
    transfer = Transfer(chosen.name, chosen.size, progress)
    try:
        for file in chosen.files:
            fetch(transfer, folder, snapshot, file.path, file.size, file.hash)
    except OSError as error:
        raise write_error(error, folder) from error
    _refuse_gaps(chosen.name, snapshot, components)
    if name.ref != chosen.name.commit:
        # Last, so that a name never stands for a snapshot that is not whole.
        ref = folder / "refs" / name.ref
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(ref, chosen.name.commit.encode(), force=True)
    return Pulled(chosen.name, snapshot, transfer.fetched)


def check_space(chosen: Offer) -> None:
    """Refuse a download that the cache's disk has no room for.

    Raises:
        ResourceError: says how much is needed and how much there is.
    """
    place = cache_folder()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if chosen.to_fetch and free < chosen.to_fetch + _SPARE:
        raise ResourceError(
            f"{chosen.name} needs {size_text(chosen.to_fetch + _SPARE)} on the disk and {place} has "
            f"{size_text(free)}; free some space, or set HF_HUB_CACHE to a folder on another disk."
        )


def _set_offline() -> list[str]:
    return [key for key in _OFFLINE if os.environ.get(key)]


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")


def _summary(chosen: Offer, variant: str) -> str:
    what = f"{chosen.name}: {len(chosen.files)} files"
    if variant and variant not in chosen.variants:
        what += f" (it has no {variant} files; the plain ones)"
    if not chosen.to_fetch:
        return f"{what}, {size_text(chosen.size)}, all here already."
    left = "" if chosen.to_fetch == chosen.size else f"{size_text(chosen.size)}, of which "
    return f"{what}, {left}{size_text(chosen.to_fetch)} to download into {cache_folder()}."


def _plain(path: str) -> bool:
    """Whether a path that the Hub lists is one that stays in the folder it is put in."""
    parts = path.split("/")
    return all(part not in ("", ".", "..") and "\\" not in part and ":" not in part for part in parts)


def _remote(name: HubName, entry: Any) -> RemoteFile:
    size = int(entry.lfs.size if entry.lfs else entry.size)
    digest = str(entry.lfs.sha256 if entry.lfs else entry.blob_id)
    if not _HASH.fullmatch(digest):
        raise NetworkError(f"The Hub lists {entry.rfilename} without a hash, so it cannot be checked; try again later.")
    blob, target = name.folder() / "blobs" / digest, name.folder() / "snapshots" / name.commit / entry.rfilename
    partial = partial_of(blob)
    here = min(size, partial.stat().st_size) if partial.is_file() else 0
    return RemoteFile(entry.rfilename, size, digest, size if is_here(blob, target, size) else here)


def _check_choice(
    name: HubName, listed: Collection[str], chosen: Collection[str], components: Collection[str] | None
) -> None:
    folders = {path.partition("/")[0] for path in listed if "/" in path}
    unknown = sorted(set(components or ()) - folders)
    if unknown:
        raise ModelNotFoundError(f"{name} has no component {', '.join(unknown)}; it has {', '.join(sorted(folders))}.")
    if components is None and not any(path.endswith(".safetensors") for path in chosen):
        raise ModelNotFoundError(
            f"{name} holds no weights as .safetensors in diffusers' layout, and pickles are never fetched; "
            "look for the same model in that layout (often with _diffusers in its name)."
        )


def _refuse_gaps(name: HubName, snapshot: Path, components: Collection[str] | None) -> None:
    missing = missing_from(snapshot, components)[1]
    if missing:
        raise ModelNotFoundError(
            f"{name} lacks on the Hub what a pipeline needs ({', '.join(missing)}); choose another model."
        )
