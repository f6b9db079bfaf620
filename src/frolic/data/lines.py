"""A file of lines that grows one whole line at a time, and survives being killed at any moment."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from frolic.errors import FileError
from frolic.io.files import reason, write_error


class Lines:
    """The lines of ``path``, which is made if it is not there and held by one process at a time.

    A line is on disk when ``append`` returns. What a crash left of one that was being written is cut off when the file
    is opened again, and ``cut`` says so; a last line that is whole but for its end is kept.
    """

    def __init__(self, path: Path, whole: Callable[[str], bool] | None = None) -> None:
        """``whole`` decides whether a last line without its end is all there; without it, none is.

        Raises:
            FileError: the file cannot be written, is not UTF-8 text, or another process holds it.
        """
        import fcntl

        self.path, self.cut = path, ""
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise write_error(error, path) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            if isinstance(error, BlockingIOError):
                raise FileError(f"Another process writes {path}; end that one first.") from None
            raise FileError(
                f"{path} cannot be kept from other processes ({reason(error)}); choose another place for it."
            ) from error
        try:
            self.lines = self._repaired(whole)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._file)

    def append(self, line: str) -> None:
        """Add one line.

        Raises:
            FileError, ResourceError: it could not be written; the file is as it was.
        """
        assert "\n" not in line
        self._write(f"{line}\n".encode())
        self.lines.append(line)

    def drop(self) -> str:
        """Take the last line away again, and return it.

        Raises:
            FileError: the file could not be changed.
        """
        line = self.lines[-1]
        data = f"{line}\n".encode()
        begin = self._size() - len(data)
        if begin < 0 or os.pread(self._file, len(data), begin) != data:
            raise FileError(f"{self.path} was changed by another program; start again to go on with it.")
        try:
            os.ftruncate(self._file, begin)
            os.fsync(self._file)
        except OSError as error:
            raise write_error(error, self.path) from error
        return self.lines.pop()

    def _write(self, data: bytes) -> None:
        before = self._size()
        try:
            os.lseek(self._file, before, os.SEEK_SET)
            if os.write(self._file, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise write_error(error, self.path) from error

    def _size(self) -> int:
        return os.fstat(self._file).st_size

    def _repaired(self, whole: Callable[[str], bool] | None) -> list[str]:
        try:
            data = self.path.read_bytes()
            head, newline, tail = data.rpartition(b"\n")
            kept = (head + newline).decode("utf-8").split("\n")[:-1]
        except UnicodeDecodeError as error:
            raise FileError(f"{self.path} is not UTF-8 text; mend it or move it away.") from error
        except OSError as error:
            raise write_error(error, self.path) from error
        if tail:
            text = tail.decode("utf-8", "replace")
            if whole is not None and whole(text):
                self._write(b"\n")
                return [*kept, text]
            os.ftruncate(self._file, self._size() - len(tail))
            os.fsync(self._file)
            self.cut = f"The last line of {self.path} was not whole and was cut off: {text[:60]!r}"
        return kept
