"""Files are written whole or not at all, with the umask's permissions, and never over another by accident."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from frolic.errors import CheckpointError, FileError, FrolicError, ResourceError, nearest

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL}
MAX_JSON = 64 * 1024 * 1024


def check_writable(path: Path, *, force: bool = False) -> None:
    """Refuse a destination that could not be written, before time is spent on what would go there.

    Raises:
        FileError: the file exists and ``force`` is not set, or its folder is missing or closed to us.
    """
    folder = path.parent
    if path.is_dir():
        raise FileError(f"{path} is a folder; give a file name inside it.")
    if _taken(path) and not force:
        raise _exists(path)
    _check_open(folder)


@contextlib.contextmanager
def whole_file(path: Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """A binary file that appears at ``path`` when the block ends well, complete and on disk, and not at all otherwise.

    Raises:
        FileError: as ``check_writable``, also when the file appeared meanwhile.
        ResourceError: the disk is full.
    """
    check_writable(path, force=force)
    temporary = path.parent / f".frolic-{os.urandom(8).hex()}.tmp"
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, path, force)
        _sync_folder(path.parent)
    except FrolicError:
        raise
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(
    path: Path, *, force: bool = False, ours: Callable[[str], bool] = lambda name: False
) -> Iterator[Path]:
    """A new folder to write files into, which appears at ``path`` when the block ends well, and not at all otherwise.

    With ``force`` it takes the place of a folder that holds nothing but files that are ``ours``, by their names.

    Raises:
        FileError: something is at ``path`` that stays, or nothing can be written there.
        ResourceError: the disk is full.
    """
    check_folder(path, force=force, ours=ours)
    scratch = path.parent / f".frolic-{os.urandom(8).hex()}.tmp"
    old = scratch.with_suffix(".old")
    try:
        scratch.mkdir()
        yield scratch
        for entry in scratch.iterdir():
            _sync(entry)
        _sync_folder(scratch)
        try:
            if _taken(path):
                check_folder(path, force=force, ours=ours)
                path.rename(old)
            scratch.rename(path)
        except BaseException:  # Ctrl-C too
            if old.exists() and not path.exists():
                old.rename(path)
            raise
        _sync_folder(path.parent)
    except FrolicError:
        raise
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        for leftover in (scratch, old):
            shutil.rmtree(leftover, ignore_errors=True)


def check_folder(path: Path, *, force: bool, ours: Callable[[str], bool]) -> None:
    """Refuse a place for a new folder, as ``whole_folder`` does, before time is spent on what would go there."""
    if _taken(path):
        if not force:
            raise _exists(path)
        if path.is_symlink() or not path.is_dir() or not all(ours(entry.name) for entry in path.iterdir()):
            raise FileError(f"{path} holds other files too, which are not replaced; choose another folder.")
    _check_open(path.parent)


def write_bytes(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write ``data`` at ``path``, whole or not at all. Raises as ``whole_file``."""
    with whole_file(path, force=force) as file:
        file.write(data)


def write_json(path: Path, value: Any, *, force: bool = False) -> None:
    """Write ``value`` as indented JSON, whole or not at all. Raises as ``whole_file``."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), force=force)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a model's file.

    Raises:
        CheckpointError: it is missing, unreadable, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError(f"{path} is too large for a settings file; get the model's files again.")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; get the model's files again.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}); check its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON; get the model's files again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should hold a JSON object; get the model's files again.")
    return value


def existing_file(path: Path) -> Path:
    """``path``, if it is a file.

    Raises:
        FileError: nothing is there (with the nearest name that is), or it is a folder, a device or a pipe.
    """
    if path.is_file():
        return path
    if path.is_dir():
        raise FileError(f"{path} is a folder; give a file.")
    if path.exists():
        raise FileError(f"{path} is no regular file; write what it gives to one, and give that.")
    try:
        hint = nearest(path.name, (entry.name for entry in path.parent.iterdir()))
    except OSError:
        hint = ""
    raise FileError(f"There is no file {path}{hint or '; check the name.'}")


def reason(error: OSError) -> str:
    """The system's words for ``error``, without the path."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def write_error(error: OSError, path: Path) -> FrolicError:
    """The error of ours that says what stopped a write to ``path``."""
    if error.errno in _FULL:
        return ResourceError(f"There is no room on the disk for {path}; free some space or choose another place.")
    return FileError(f"{path} cannot be written ({reason(error)}); choose a place you may write to.")


def _check_open(folder: Path) -> None:
    if not folder.is_dir():
        raise FileError(f"There is no folder {folder}; create it or choose another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(f"Nothing can be written in {folder}; choose a folder you may write to.")


def _taken(path: Path) -> bool:
    return os.path.lexists(path)


def _exists(path: Path) -> FileError:
    return FileError(f"{path} already exists; choose another name, or pass --force (force=True) to replace it.")


def _publish(temporary: Path, path: Path, force: bool) -> None:
    """Give the finished file its name. A link fails where a rename would replace what another process just wrote."""
    if not force:
        try:
            os.link(temporary, path)
            return
        except FileExistsError:
            raise _exists(path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        if _taken(path):
            raise _exists(path)
    temporary.replace(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        _sync(folder)
