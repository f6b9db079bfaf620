"""``--preview-every``: pictures of how far a run has come, beside what it will write, while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from frolic.cli.places import preview_of
from frolic.errors import FileError, RequestError, ResourceError
from frolic.io.files import check_writable
from frolic.io.media import save_png

if TYPE_CHECKING:
    from frolic.cli.report import Report
    from frolic.pipeline import Progress


class Previews:
    """One PNG for each picture, replaced every so many steps and removed in the end; of a video, its first frame.

    Raises:
        RequestError: ``every`` is not 1 or more.
        FileError: a preview would replace a file and ``force`` is not set.
    """

    def __init__(
        self, every: int | None, places: Sequence[Path], pictures: range, report: Report, *, force: bool
    ) -> None:
        if every is not None and every < 1:
            raise RequestError(f"--preview-every is {every}, it must be 1 or more.")
        self._every = every or 0
        self._paths = dict(zip(pictures, map(preview_of, places), strict=True)) if every else {}
        self._report = report
        self._shown: set[Path] = set()
        for path in self._paths.values():
            check_writable(path, force=force)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in self._shown:
            with contextlib.suppress(OSError):
                path.unlink()

    def step(self, event: Progress) -> None:
        """Show how far it is, if this step is one of those. What cannot be shown is said, and drawing goes on."""
        done = event.index + 1
        if not self._every or done % self._every or done == event.total:
            return
        try:
            for index, image in enumerate(event.preview(), event.first):
                if (path := self._paths.get(index)) is not None:
                    self._shown.add(path)
                    save_png(image, path, force=True)
                    self._report.event("preview", path=str(path), step=done)
        except (FileError, ResourceError) as error:
            self._every = 0
            self._report.note(f"No more previews: {error}")
