"""Show a download: how much it will be, and how far it is."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Notify = Callable[[str], None]
Progress = Callable[[int, int, str], None]
_SECONDS_BETWEEN_LINES = 1.0


@contextmanager
def shown(as_json: bool = False, *, quiet: bool = False) -> Iterator[tuple[Notify, Progress]]:
    """The ``notify`` and ``progress`` of ``frolic.io.hub`` for a terminal (a line, then a bar, on stderr) or as JSON
    lines on stdout. A bar appears with the first bytes, so nothing is shown where nothing is fetched. ``quiet`` shows
    what has to be downloaded and no bar."""
    if as_json:
        yield _say_json, _json_lines()
        return
    if quiet or not sys.stderr.isatty():
        yield _say, lambda done, total, path: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("", total=None, visible=False)
        yield (
            lambda text: bar.console.print(text, markup=False, highlight=False, soft_wrap=True),
            lambda done, total, path: bar.update(
                task, completed=done, total=total, description=path.rpartition("/")[2][:40], visible=True
            ),
        )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _say_json(text: str) -> None:
    _tell({"event": "download", "message": text})


def _tell(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()  # whoever reads it through a pipe waits for it


def _json_lines() -> Progress:
    last = 0.0

    def line(done: int, total: int, path: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or done == total:
            last = now
            _tell({"event": "downloading", "done": done, "total": total, "file": path})

    return line
