"""How a run shows itself: a bar on a terminal, lines in a log, JSON lines for programs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TextIO


class Progress(Protocol):
    """Told about a run as it goes."""

    def start(self, title: str, step: int, steps: int) -> None: ...
    def step(self, step: int, seconds_left: float) -> None: ...
    def metrics(self, step: int, values: Mapping[str, float], seconds_left: float) -> None: ...
    def note(self, text: str) -> None: ...
    def stop(self) -> None: ...


class _Notes(logging.Handler):
    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.note(self.format(record))


@contextmanager
def heard(progress: Progress) -> Iterator[None]:
    """While it lasts, ``progress`` notes what frolic's training logs: what is prepared before the first step."""
    logger, handler = logging.getLogger("frolic.train"), _Notes(progress)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Silent:
    """Shows nothing."""

    def start(self, title: str, step: int, steps: int) -> None: ...
    def step(self, step: int, seconds_left: float) -> None: ...
    def metrics(self, step: int, values: Mapping[str, float], seconds_left: float) -> None: ...
    def note(self, text: str) -> None: ...
    def stop(self) -> None: ...


class Lines(Silent):
    """A line each time metrics are recorded."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._steps = 0

    def start(self, title: str, step: int, steps: int) -> None:
        self._steps = steps
        self.note(f"{title}: step {step} of {steps}")

    def metrics(self, step: int, values: Mapping[str, float], seconds_left: float) -> None:
        self.note(f"step {step}/{self._steps}  {_shown(values)}  left {duration(seconds_left)}")

    def note(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class JsonEvents(Silent):
    """An object a line: ``event`` is start, metrics or note."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def _event(self, event: str, **fields: Any) -> None:
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()

    def start(self, title: str, step: int, steps: int) -> None:
        self._event("start", recipe=title, step=step, steps=steps)

    def metrics(self, step: int, values: Mapping[str, float], seconds_left: float) -> None:
        self._event("metrics", step=step, seconds_left=round(seconds_left, 1), **values)

    def note(self, text: str) -> None:
        self._event("note", message=text)


class Bar(Silent):
    """A bar with the last metrics and the time left."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        shown = TextColumn("{task.fields[shown]}")
        self._bar = RichProgress(*columns, TextColumn("left {task.fields[left]}"), shown, console=Console(file=stream))
        self._task: Any = None

    def start(self, title: str, step: int, steps: int) -> None:
        self._task = self._bar.add_task(title, completed=step, total=steps, left="?", shown="")
        self._bar.start()

    def step(self, step: int, seconds_left: float) -> None:
        self._bar.update(self._task, completed=step, left=duration(seconds_left))

    def metrics(self, step: int, values: Mapping[str, float], seconds_left: float) -> None:
        self._bar.update(self._task, completed=step, left=duration(seconds_left), shown=_shown(values))

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        self._bar.stop()


def choose(stream: TextIO, as_json: bool) -> Progress:
    """JSON lines when asked for, a bar on a terminal, plain lines elsewhere."""
    if as_json:
        return JsonEvents(stream)
    return Bar(stream) if stream.isatty() else Lines(stream)


def duration(seconds: float) -> str:
    """``42s``, ``3m05s`` or ``2h07m``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _shown(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "seconds")
