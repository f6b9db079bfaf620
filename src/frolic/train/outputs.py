"""What a run writes besides checkpoints and metrics, whole or not at all."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from torch import Tensor, nn

from frolic.errors import FileError
from frolic.io.files import whole_file, write_error


class RunLock:
    """Holds a run's folder, so that two processes do not write into it. The system lets go when a process dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> RunLock:
        import fcntl

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = (self._folder / ".lock").open("w")
        except OSError as error:
            raise FileError(
                f"{self._folder} cannot be written: {error.strerror}; set another output.folder."
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise FileError(f"Another process trains in {self._folder}; wait for it or set output.folder.") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def write_preview(pictures_N3HW: Tensor, path: Path) -> None:
    """Pictures in [-1, 1] as one PNG, in rows of nearly as many as there are rows.

    Raises:
        ResourceError, FileError: it could not be written.
    """
    from PIL import Image

    from frolic.pipeline.result import to_image

    count, _, height, width = pictures_N3HW.shape
    columns = math.ceil(math.sqrt(count))
    sheet = Image.new("RGB", (columns * width, math.ceil(count / columns) * height))
    for index, picture in enumerate(pictures_N3HW.detach().float()):
        sheet.paste(to_image(picture), (index % columns * width, index // columns * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, force=True) as file:
        sheet.save(file, format="PNG")


def write_export(
    export: Callable[[Mapping[str, nn.Module], Path], None], modules: Mapping[str, nn.Module], target: Path
) -> None:
    """Let ``export`` fill a temporary folder, then give it its name in place of the one before.

    Raises:
        ResourceError: the disk is full.
        FileError: the folder cannot be written, or ``target`` holds something that no export of a run has made.
    """
    partial = target.with_name(f".{target.name}.unfinished")
    previous = target.with_name(f".{target.name}.previous")
    mark = ".frolic-export"
    if target.exists() and not (target / mark).is_file():
        raise FileError(f"{target} exists and was not written by a training; set another output.export.")
    try:
        for left in (partial, previous):
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        export(modules, partial)
        (partial / mark).touch()
        if target.exists():
            target.rename(previous)
        partial.rename(target)
        shutil.rmtree(previous, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise write_error(error, target) from error
