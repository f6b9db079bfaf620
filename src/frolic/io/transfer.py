"""Fetch one file of a repository into the cache: on where it stopped, checked before it gets its name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from frolic.errors import NetworkError
from frolic.io.cache import size_text
from frolic.io.hub_errors import explained, passing
from frolic.io.hub_names import HubName, endpoint
from frolic.io.verify import blob_hash

_CHUNK = 1 << 20
_PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0)
"""Seconds before each new try of one file; bytes that arrive start the count anew."""


@dataclass
class Transfer:
    """A download of several files: ``done`` counts the bytes that are here, ``fetched`` those that were moved."""

    name: HubName
    total: int
    progress: Callable[[int, int, str], None] | None = None
    done: int = 0
    fetched: int = 0

    def tell(self, path: str, done: int) -> None:
        """Report ``done`` bytes of ``path`` on top of the files before it."""
        if self.progress is not None:
            self.progress(self.done + done, self.total, path)


class _Damaged(Exception):
    """All bytes arrived, and they are not those that were published."""


class _CutOff(Exception):
    """The connection was closed before all bytes had arrived."""


def partial_of(blob: Path) -> Path:
    """Where the bytes of ``blob`` are gathered until all are there."""
    return blob.with_name(blob.name + ".incomplete")


def is_here(blob: Path, target: Path, size: int) -> bool:
    """Whether the file is in the cache: as a blob, or under its own name where the system has no links."""
    return any(place.is_file() and _length(place) == size for place in (blob, target))


def fetch(transfer: Transfer, folder: Path, snapshot: Path, path: str, size: int, digest: str) -> None:
    """Make ``path`` of the repository appear in ``snapshot``, as a link to its blob in ``folder``.

    Raises:
        ModelNotFoundError, AccessError, NetworkError: as ``frolic.io.hub.pull``.
        OSError: the disk is full or closed to us; what has arrived is kept.
    """
    blob, target = folder / "blobs" / digest, snapshot / path
    for place in (blob.parent, target.parent):
        place.mkdir(parents=True, exist_ok=True)
    if not is_here(blob, target, size):
        # Where the library keeps its locks, so that its own downloads wait for ours.
        lock = folder.parent / ".locks" / folder.name / f"{digest}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with _library().WeakFileLock(lock):
            if not is_here(blob, target, size):
                _fetch_blob(transfer, blob, path, size, digest)
    transfer.done += size
    transfer.tell(path, 0)
    _link(blob, target)


def _fetch_blob(transfer: Transfer, blob: Path, path: str, size: int, digest: str) -> None:
    partial = partial_of(blob)
    tries = damaged = 0
    while True:
        before = _length(partial)
        try:
            _receive(transfer, partial, path, size, digest)
            break
        except _Damaged:
            partial.unlink()
            damaged += 1
            if damaged == 2:
                raise NetworkError(
                    f"{path} of {transfer.name} arrived damaged twice; something between here and the Hub changes it: "
                    "try another network."
                ) from None
        except Exception as error:
            # The libraries' own errors can be OSErrors too; those of the disk have a number.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            tries = _again(transfer, path, error, tries, before, partial, size)
    partial.replace(blob)


def _again(transfer: Transfer, path: str, error: Exception, tries: int, before: int, partial: Path, size: int) -> int:
    """The count of tries without a byte, after a pause; raises where there is no use in another."""
    if not isinstance(error, _CutOff) and not passing(error):
        raise explained(error, transfer.name) from error
    here = _length(partial)
    tries = 0 if here > before else tries + 1
    if tries == len(_PAUSES):
        said = explained(error, transfer.name)
        if here and not hasattr(error, "response"):
            said = NetworkError(
                f"The download of {transfer.name} stalled in {path} at {size_text(here)} of {size_text(size)}; "
                "run the same command again, it goes on from there."
            )
        raise said from error
    time.sleep(_PAUSES[tries])
    return tries


def _receive(transfer: Transfer, partial: Path, path: str, size: int, digest: str) -> None:
    """One request for what ``partial`` lacks; raises ``_Damaged`` where the whole has another hash."""
    from huggingface_hub import get_session, hf_hub_url

    here = _length(partial)
    if here > size:
        partial.unlink()
        here = 0
    with partial.open("ab+") as file:
        state = blob_hash(size, digest)
        file.seek(0)
        while chunk := file.read(_CHUNK):
            state.update(chunk)
        if here < size or size == 0:
            url = hf_hub_url(transfer.name.repo, path, revision=transfer.name.commit, endpoint=endpoint())
            headers = {**_library().build_hf_headers(library_name="frolic"), "Accept-Encoding": "identity"}
            if here:
                headers["Range"] = f"bytes={here}-"
            request: Any = get_session().stream("GET", url, headers=headers, timeout=_patience(), follow_redirects=True)
            with request as response:
                _library().hf_raise_for_status(response)
                if here and response.status_code != 206:
                    file.truncate(0)
                    state, here = blob_hash(size, digest), 0
                # As they come: in chunks of a given size, what a broken connection brought last would be lost.
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    state.update(chunk)
                    here += len(chunk)
                    transfer.fetched += len(chunk)
                    if here > size:
                        raise _Damaged
                    transfer.tell(path, here)
        file.flush()
        os.fsync(file.fileno())
    if here < size:
        raise _CutOff(f"{here} of {size} bytes")
    if state.hexdigest() != digest:
        raise _Damaged


def _link(blob: Path, target: Path) -> None:
    """Name the blob in the snapshot: by a relative link, or a second name, or by moving it there."""
    if not blob.is_file() or (target.is_file() and target.samefile(blob)):
        return
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(os.path.relpath(blob, target.parent))
    except (OSError, NotImplementedError):
        try:
            target.hardlink_to(blob)
        except (OSError, NotImplementedError):
            blob.replace(target)


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _patience() -> float:
    """Seconds without a byte after which a download counts as stalled."""
    try:
        return float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "")) or 30.0
    except ValueError:
        return 30.0


def _library() -> Any:
    """``huggingface_hub.utils``, whose functions are public and not typed as such."""
    return import_module("huggingface_hub.utils")
