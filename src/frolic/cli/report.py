"""What a run says while it works: JSON lines, a progress bar on a terminal, or plain lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from frolic.plan.estimate import Estimate

_BAR = 30


class Report:
    """Lines for people go to standard output when they are results and to standard error when they are remarks."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._bar = ""
        self._began: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def event(self, name: str, **fields: Any) -> None:
        """One JSON line, with ``--json``."""
        if self.as_json:
            _line(sys.stdout, json.dumps({"event": name, **fields}))

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._close()
        self.event("note", message=text)
        if not (self.as_json or self.quiet):
            _line(sys.stderr, text)

    def step(self, index: int, total: int) -> None:
        """Step ``index`` (from 0) of ``total`` is done."""
        done = index + 1
        left = self._left(done, total)
        self.event("step", step=done, total=total, **({} if left is None else {"eta_s": round(left, 1)}))
        if self.as_json or self.quiet or not sys.stderr.isatty():
            return
        said = "" if left is None or left < 1 else f", {_duration(left)} left"
        self._draw("drawing", done, total, f"{done}/{total}{said}")

    def download(self, done: int, total: int, path: str) -> None:
        """``done`` of ``total`` bytes are here; ``path`` is the file that they belong to."""
        if self.as_json or self.quiet or not sys.stderr.isatty():
            return
        self._draw("loading", done, max(total, 1), f"{done / 1e9:.2f}/{total / 1e9:.2f} GB")

    def plan(self, estimate: Estimate) -> None:
        """What a request would take."""
        self.event("plan", **estimate.facts())
        if not (self.as_json or self.quiet):
            for line in estimate.lines():
                _line(sys.stdout, line)

    def made(self, path: Path, seed: int, prompt: str, kind: str = "image") -> None:
        """A picture, or another ``kind`` of file, was written."""
        self._close()
        self.event(kind, path=str(path), seed=seed, prompt=prompt)
        if not (self.as_json or self.quiet):
            _line(sys.stdout, f"{path}  seed {seed}")

    def _left(self, done: int, total: int) -> float | None:
        """Seconds that the other steps will take, as those since the first did: it alone reads weights and text."""
        now = monotonic()
        if self._began is None or done <= self._began[0]:
            self._began = done, now
            return None
        return (now - self._began[1]) / (done - self._began[0]) * (total - done)

    def _draw(self, what: str, done: int, total: int, said: str) -> None:
        # By hand: the libraries that draw bars take longer to import than the starter takes to draw.
        full = _BAR * done // total
        before, self._bar = len(self._bar), f"{what} {'#' * full}{'.' * (_BAR - full)} {said}"
        sys.stderr.write(f"\r{self._bar:<{before}}")
        sys.stderr.flush()

    def _close(self) -> None:
        """Wipe the bar, so that what is written next has the line for itself."""
        if self._bar:
            sys.stderr.write(f"\r{' ' * len(self._bar)}\r")
            sys.stderr.flush()
            self._bar = ""


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _line(stream: TextIO, text: str) -> None:
    stream.write(printable(text) + "\n")
    stream.flush()


def printable(text: str) -> str:
    """Lines for a terminal: names and records from files are part of some, and must not steer it."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
