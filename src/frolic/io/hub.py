"""Get models from the Hugging Face Hub into the cache that all its libraries share; what is there is used as it is.

The bytes are fetched over ``huggingface_hub``'s HTTP session (its login, proxies and certificates), but not by its
downloader, which starts a cut-off file over: here a download goes on where it stopped, also in another process, and
every file is checked against the hash that the Hub lists before it gets its name.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from frolic.errors import (
    CheckpointError,
    FileError,
    FrolicError,
    ModelNotFoundError,
    NetworkError,
    ResourceError,
    UnsafeFileError,
    nearest,
)
from frolic.io.cache import COMMIT, cached, files_in, missing_from, size_text
from frolic.io.files import read_json_object, write_bytes, write_error
from frolic.io.hub_errors import explained, foreign, unreachable
from frolic.io.hub_files import INDEX, absent, same_kind, select, variants
from frolic.io.hub_names import HubName, cache_folder, endpoint, named, offline
from frolic.io.transfer import Transfer, fetch, is_here, partial_size
from frolic.io.verify import Check

if TYPE_CHECKING:
    from frolic.spec import Published

Notify = Callable[[str], None]
Progress = Callable[[int, int, str], None]
"""Gets bytes done, bytes in all, and the file they belong to."""

_SPARE = 64 * 1000**2
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ASK_SECONDS = 20.0


@dataclass(frozen=True)
class RemoteFile:
    """A file on the Hub: ``size`` in bytes, ``hash`` SHA-256 or git's, ``here`` the bytes that are cached already.
    ``anew``: what is cached is damaged and does not count."""

    path: str
    size: int
    hash: str
    here: int
    anew: bool = False


@dataclass(frozen=True)
class Offer:
    """What the Hub has of a model and frolic would fetch: ``files``, of all the ``paths`` that it lists. ``variants``
    are those that its weights come in."""

    name: HubName
    files: tuple[RemoteFile, ...]
    paths: frozenset[str]
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


def resolve(
    model: str,
    published: Iterable[Published] = (),
    *,
    components: Collection[str] | None = None,
    variant: str | None = None,
    classes: Collection[str] | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Path | None:
    """The folder of ``model``: a short name of ``published``, or ``org/name[@revision]``. None: it is no such name.

    What is cached is used, with no socket opened. What is not is fetched, after ``notify`` (by default a line on
    stderr) was told how much that is. ``components`` are the folders that are needed, by default a whole pipeline.
    ``variant`` of the weights (``""`` is the plain one) is what has to be there, by default any, and what is published
    as the best one is fetched. ``classes``: as for ``pull``.

    Raises:
        As ``pull``.
    """
    found = named(model, published)
    if found is None:
        return None
    name, preferred = found
    here = cached(name, components, variant)
    if here is not None:
        return here.path
    kind = preferred if variant is None else variant
    told = notify or _to_stderr
    return pull(name, variant=kind, components=components, classes=classes, notify=told, progress=progress).path


def offer(name: HubName, *, variant: str = "", components: Collection[str] | None = None) -> Offer:
    """Ask the Hub what ``pull`` would fetch.

    Raises:
        ModelNotFoundError: there is no such repository, revision or component, or it has no ``.safetensors``.
        AccessError: its owner gives it only after a login or accepted terms.
        NetworkError: offline, or the Hub cannot be reached, or its answer makes no sense.
        UnsafeFileError: it lists files that would lie outside the model's folder.
    """
    name, info, listed = _ask(name)
    chosen = select(listed, variant, components)
    _check_choice(name, listed, chosen, components)
    return _offer(name, info, listed, chosen)


def _ask(name: HubName) -> tuple[HubName, Any, Mapping[str, Any]]:
    """``name`` with its commit, what the Hub says of it, and its files by their paths."""
    if variables := offline():
        are = "are" if len(variables) > 1 else "is"
        raise NetworkError(unreachable(name, f"this session is offline ({' and '.join(variables)} {are} set)"))
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=endpoint(), library_name="frolic")
        info = api.model_info(name.repo, revision=name.ref, files_metadata=True, timeout=_ASK_SECONDS)
    except Exception as error:
        if not foreign(error):
            raise
        raise explained(error, name) from error
    if not COMMIT.fullmatch(str(info.sha)):
        raise NetworkError(f"The Hub gives no commit for {name} but {str(info.sha)[:80]!r}; try again later.")
    listed = {entry.rfilename: entry for entry in info.siblings or ()}
    outside = sorted(path for path in listed if _leaves(path))
    if outside:
        raise UnsafeFileError(
            f"{name} lists files that would lie outside its folder ({', '.join(map(repr, outside[:3]))}), so nothing "
            "of it is fetched; choose another model."
        )
    return replace(name, commit=str(info.sha)), info, listed


def _offer(
    name: HubName, info: Any, listed: Mapping[str, Any], chosen: Iterable[str], damaged: Collection[str] = ()
) -> Offer:
    return Offer(
        name=name,
        files=tuple(_remote(name, listed[path], path in damaged) for path in chosen),
        paths=frozenset(listed),
        variants=variants(listed),
        license=str(getattr(info.card_data, "license", None) or ""),
        gated=bool(info.gated),
    )


def pull(
    name: HubName,
    *,
    variant: str = "",
    components: Collection[str] | None = None,
    classes: Collection[str] | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Bring ``name`` into the cache, whole and checked; run again, it goes on where it was cut off.

    ``variant`` (``fp16``, ``bf16``) of the weights is preferred, else the plain ones are fetched. ``components`` are
    the folders to fetch, by default all, and of no meaning where the repository is one part itself. A whole pipeline
    has to be one of ``classes``, where they are given. That and its being complete is told from its
    ``model_index.json``, before ``notify`` is told the size and the rest is fetched.

    Raises:
        ModelNotFoundError, AccessError, NetworkError, UnsafeFileError: as ``offer``; ModelNotFoundError also when a
            part is lacking on the Hub, NetworkError when the connection breaks or stalls again and again, or a file
            arrives damaged twice.
        CheckpointError: it is a pipeline of another class.
        ResourceError: the disk has no room for it.
        FileError: the cache cannot be written.
    """
    chosen = offer(name, variant=variant, components=components)
    folder = name.folder()
    ref = folder / "refs" / name.ref
    _check_ref(name, ref)
    check_space(chosen)
    snapshot = folder / "snapshots" / chosen.name.commit
    transfer = Transfer(chosen.name, chosen.size)
    index = [file for file in chosen.files if file.path == INDEX]
    _fetch_all(transfer, folder, snapshot, index)
    if index:
        _check_index(chosen, read_json_object(snapshot / INDEX), components, classes)
    if notify is not None:
        notify(_summary(chosen, variant))
    transfer.progress = progress
    _fetch_all(transfer, folder, snapshot, [file for file in chosen.files if file.path != INDEX])
    _refuse(chosen.name, missing_from(snapshot, components)[1])
    # Last, so that a name never stands for what is still to come; and a part never takes it from a whole model.
    whole = not missing_from(snapshot)[1]
    if name.ref != chosen.name.commit and (whole or cached(name) is None):
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(ref, chosen.name.commit.encode(), force=True)
    return Pulled(chosen.name, snapshot, transfer.fetched)


def repair(name: HubName, found: Check, *, notify: Notify | None = None, progress: Progress | None = None) -> Pulled:
    """Fetch what ``frolic.io.verify`` found damaged or missing in the cached snapshot ``name``, whose revision is its
    commit. All else stays, and so does a damaged file until the Hub has given a whole one.

    Raises:
        As ``pull``.
    """
    name, info, listed = _ask(name)
    folder = name.folder()
    snapshot = folder / "snapshots" / name.commit
    here = [file.relative_to(snapshot).as_posix() for file in files_in(snapshot)]
    damaged = {file.relative_to(snapshot).as_posix() for file in found.damaged}
    wanted = {*damaged, *found.missing}
    for part in (path.removesuffix("*.safetensors") for path in found.missing if path.endswith("*.safetensors")):
        there, kept = ([path for path in paths if path.rpartition("/")[0] == part[:-1]] for paths in (listed, here))
        wanted.update(same_kind(there, kept))
    chosen = _offer(name, info, listed, sorted(wanted.intersection(listed)), damaged)
    check_space(chosen)
    if notify is not None:
        notify(_summary(chosen, ""))
    transfer = Transfer(name, chosen.size, progress)
    _fetch_all(transfer, folder, snapshot, chosen.files)
    return Pulled(name, snapshot, transfer.fetched)


def _fetch_all(transfer: Transfer, folder: Path, snapshot: Path, files: Iterable[RemoteFile]) -> None:
    try:
        for file in files:
            fetch(transfer, folder, snapshot, file.path, file.size, file.hash, anew=file.anew)
    except FrolicError:
        raise
    except OSError as error:
        raise write_error(error, folder) from error


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


def _leaves(path: str) -> bool:
    """Whether a path that the Hub lists could, on any system, lead out of the folder it is put in."""
    return bool(PureWindowsPath(path).anchor) or any(part in ("", ".", "..") for part in re.split(r"[/\\\0]", path))


def _remote(name: HubName, entry: Any, anew: bool) -> RemoteFile:
    size = entry.lfs.size if entry.lfs else entry.size
    digest = str(entry.lfs.sha256 if entry.lfs else entry.blob_id)
    if not isinstance(size, int) or not _HASH.fullmatch(digest):
        raise NetworkError(
            f"The Hub lists {entry.rfilename} without a size and a hash, so it cannot be checked; try again later."
        )
    blob, target = name.folder() / "blobs" / digest, name.folder() / "snapshots" / name.commit / entry.rfilename
    whole = not anew and is_here(blob, target, size)
    return RemoteFile(entry.rfilename, size, digest, size if whole else min(size, partial_size(blob)), anew)


def _check_ref(name: HubName, ref: Path) -> None:
    """Refuse a revision ``a/b`` where the cache has ``a``, and the reverse: it keeps them as files and folders."""
    above = [place for place in ref.parents if place.is_relative_to(name.folder() / "refs") and place.is_file()]
    if above or ref.is_dir():
        raise FileError(
            f"The cache in {name.folder()} has a revision whose name begins like {name.ref!r}, and it cannot keep "
            f"both; delete that one with `frolic models rm`, or give the commit: {name.repo}@COMMIT."
        )


def _check_choice(
    name: HubName, listed: Collection[str], chosen: Collection[str], components: Collection[str] | None
) -> None:
    folders = {path.partition("/")[0] for path in listed if "/" in path}
    if INDEX not in listed:
        components = None  # It is one part, at its root.
    unknown = sorted(set(components or ()) - folders)
    if unknown:
        has = ", ".join(sorted(folders)) or "none"
        raise ModelNotFoundError(f"{name} has no component {', '.join(unknown)}; it has {has}.")
    if components is None and not any(path.endswith(".safetensors") for path in chosen):
        raise ModelNotFoundError(
            f"{name} holds no weights as .safetensors in diffusers' layout, and pickles are never fetched; "
            "look for the same model in that layout (often with _diffusers in its name)."
        )


def _check_index(
    chosen: Offer, index: Mapping[str, Any], components: Collection[str] | None, classes: Collection[str] | None
) -> None:
    kind = index.get("_class_name")
    if components is None and classes is not None and kind not in classes:
        hint = nearest(str(kind), classes) or f"; supported: {', '.join(sorted(classes))}."
        raise CheckpointError(f"{chosen.name} is the pipeline {kind!r}, which frolic does not know{hint}")
    _refuse(chosen.name, absent(chosen.paths, index, components))


def _refuse(name: HubName, missing: Collection[str]) -> None:
    if missing:
        raise ModelNotFoundError(
            f"{name} lacks on the Hub what a pipeline needs ({', '.join(missing)}); choose another model."
        )
