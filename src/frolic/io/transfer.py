"""Fetch one file of a repository into the cache: on where it stopped, checked before it gets its name.

Some file systems grant every lock that they are asked for. So a download writes to a file that it alone has the name
of, at the places where the bytes belong, and what is accepted is what the file itself holds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from frolic.errors import NetworkError
from frolic.io.cache import size_text
from frolic.io.hub_errors import explained, foreign, passing
from frolic.io.hub_names import HubName, endpoint
from frolic.io.verify import blob_hash

_CHUNK = 1 << 20
_PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0)
"""Seconds before each new try of one file; bytes that arrive start the count anew."""
_QUIET = 2.0
"""Seconds without a write after which a file that another process gave its name to counts as left behind."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_NO_PRIVILEGE = 1314
"""Windows lets only some users make symbolic links."""


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
    """Where the bytes of ``blob`` are kept between two tries to fetch it."""
    return blob.with_name(blob.name + ".incomplete")


def partial_size(blob: Path) -> int:
    """The bytes of ``blob`` that an earlier try brought."""
    return max(map(_length, _partials(blob)), default=0)


def is_here(blob: Path, target: Path, size: int) -> bool:
    """Whether the file is in the cache: as a blob, or under its own name where the system has no links."""
    return any(place.is_file() and _length(place) == size for place in (blob, target))


def fetch(
    transfer: Transfer, folder: Path, snapshot: Path, path: str, size: int, digest: str, *, anew: bool = False
) -> None:
    """Make ``path`` of the repository appear in ``snapshot``, as a link to its blob in ``folder``. ``anew``: also where
    it is here already; what is here is replaced once the other is whole.

    Raises:
        ModelNotFoundError, AccessError, NetworkError: as ``frolic.io.hub.pull``.
        OSError: the disk is full or closed to us; what has arrived is kept.
    """
    blob, target = folder / "blobs" / digest, snapshot / path
    if anew or not _in_place(blob, target, size):
        # Where the library keeps its locks, so that its own downloads wait for ours.
        lock = folder.parent / ".locks" / folder.name / f"{digest}.lock"
        for place in (blob.parent, target.parent, lock.parent):
            place.mkdir(parents=True, exist_ok=True)
        with _library().WeakFileLock(lock):
            fresh = anew or not is_here(blob, target, size)
            if fresh:
                _fetch_blob(transfer, blob, path, size, digest, anew)
            _link(blob, target, fresh)
    transfer.done += size
    transfer.tell(path, 0)


def _in_place(blob: Path, target: Path, size: int) -> bool:
    if not target.is_file() or _length(target) != size:
        return False
    return not blob.is_file() or target.samefile(blob)


def _fetch_blob(transfer: Transfer, blob: Path, path: str, size: int, digest: str, anew: bool) -> None:
    tries = damaged = 0
    while True:
        with _claimed(blob) as claim:
            if not anew and blob.is_file() and _length(blob) == size and not claim.exists():
                return
            before = _length(claim)
            try:
                _receive(transfer, claim, path, size, digest)
                claim.replace(blob)
                return
            except FileNotFoundError:
                # Where locks do not lock, another process took over what we wrote, and gives it the name.
                if not anew and blob.is_file() and _length(blob) == size:
                    return
                tries = _again(transfer, path, _CutOff("another process took it"), tries, before, claim, size)
            except _Damaged:
                claim.unlink(missing_ok=True)
                damaged += 1
                if damaged == 2:
                    raise NetworkError(
                        f"{path} of {transfer.name} arrived damaged twice; something between here and the Hub changes "
                        "it: try another network."
                    ) from None
            except Exception as error:
                # The libraries' own errors can be OSErrors too; those of the disk have a number.
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                tries = _again(transfer, path, error, tries, before, claim, size)


def _partials(blob: Path) -> list[Path]:
    """What there is of ``blob``: as a try left it, or as one had it that was killed."""
    return sorted(blob.parent.glob(f"{blob.name}*.incomplete"), key=_length, reverse=True)


@contextlib.contextmanager
def _claimed(blob: Path) -> Iterator[Path]:
    """What has arrived of ``blob``, under a name that no other process has; it gets the usual one back at the end."""
    claim = blob.with_name(f"{blob.name}.{os.urandom(8).hex()}.incomplete")
    for found in _partials(blob):
        with contextlib.suppress(OSError):
            if found == partial_of(blob) or _left_behind(found):
                found.replace(claim)
                break
    try:
        yield claim
    finally:
        with contextlib.suppress(FileNotFoundError):
            claim.replace(partial_of(blob))


def _left_behind(claim: Path) -> bool:
    """Whether no process writes to ``claim`` any more. Where locks work none does; where not, this is a good guess, and
    a wrong one costs only work: both write the same bytes to the same places."""
    before = claim.stat().st_mtime
    age = max(0.0, time.time() - before)
    if age < _QUIET:
        time.sleep(_QUIET - age)
    return claim.stat().st_mtime == before


def _again(transfer: Transfer, path: str, error: Exception, tries: int, before: int, partial: Path, size: int) -> int:
    """The count of tries without a byte, after a pause; raises where there is no use in another."""
    if not isinstance(error, _CutOff) and not passing(error):
        if not foreign(error):
            raise error
        raise explained(error, transfer.name) from error
    here = _length(partial)
    tries = 0 if here > before else tries + 1
    if tries == len(_PAUSES):
        said = explained(error, transfer.name)
        if (here or isinstance(error, _CutOff)) and not hasattr(error, "response"):
            said = NetworkError(
                f"The download of {transfer.name} stalled in {path} at {size_text(here)} of {size_text(size)}; "
                "run the same command again, it goes on from there."
            )
        raise said from error
    time.sleep(_PAUSES[tries])
    return tries


def _receive(transfer: Transfer, claim: Path, path: str, size: int, digest: str) -> None:
    """One request for what ``claim`` lacks; raises ``_Damaged`` where the file is another than the published one."""
    claim.touch()
    with claim.open("rb+") as file:
        if _length(claim) > size:
            file.truncate(0)
        here = file.seek(0, os.SEEK_END)
        if here < size:
            _stream(transfer, file, path, size)
        file.flush()
        os.fsync(file.fileno())
        here = os.fstat(file.fileno()).st_size
        if here < size:
            raise _CutOff(f"{here} of {size} bytes")
        file.seek(0)
        state = blob_hash(size, digest)
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    if here != size or state.hexdigest() != digest:
        raise _Damaged


def _stream(transfer: Transfer, file: BinaryIO, path: str, size: int) -> None:
    """Write what the Hub sends from where ``file`` stands."""
    from huggingface_hub import get_session, hf_hub_url

    here = file.tell()
    url = hf_hub_url(transfer.name.repo, path, revision=transfer.name.commit, endpoint=endpoint())
    headers = {**_library().build_hf_headers(library_name="frolic"), "Accept-Encoding": "identity"}
    if here:
        headers["Range"] = f"bytes={here}-"
    request: Any = get_session().stream("GET", url, headers=headers, timeout=_patience(), follow_redirects=True)
    with request as response:
        _library().hf_raise_for_status(response)
        if here and response.status_code != 206:
            here = file.seek(0)
            file.truncate()
        # As they come: in chunks of a given size, what a broken connection brought last would be lost.
        for chunk in response.iter_bytes():
            file.write(chunk)
            here += len(chunk)
            transfer.fetched += len(chunk)
            if here > size:
                raise _Damaged
            transfer.tell(path, here)


def _link(blob: Path, target: Path, fresh: bool) -> None:
    """Name the blob in the snapshot: by a relative link, where there are none by a second name, else by the file.

    Only a ``fresh`` blob, which no other snapshot can use yet, is moved there, to save the room; others are copied.
    """
    if not blob.is_file() or (target.is_file() and target.samefile(blob)):
        return
    made = target.with_name(f".frolic-{os.urandom(8).hex()}.tmp")
    try:
        if _tried(made.symlink_to, Path(os.path.relpath(blob, target.parent))) or _tried(made.hardlink_to, blob):
            pass
        elif fresh:
            blob.replace(made)
        else:
            shutil.copyfile(blob, made)
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)


def _tried(link: Callable[..., None], *arguments: Path) -> bool:
    """Whether the system has such links."""
    try:
        link(*arguments)
    except NotImplementedError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS and getattr(error, "winerror", 0) != _NO_PRIVILEGE:
            raise
        return False
    return True


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
