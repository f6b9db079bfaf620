"""Scalars over the run: a JSON line each time, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from frolic.io.files import write_bytes


class Sink(Protocol):
    """Where scalars go."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """``metrics.jsonl``: one object a line, with ``step`` first.

    A run that resumes at ``step`` drops the later lines of the run it continues, so the file is one curve.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = lines_until(path, step)
        write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode(), force=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def close(self) -> None:
        self._file.close()


def lines_until(path: Path, step: int) -> list[dict[str, Any]]:
    """What a run has written of its steps up to ``step``, an object with ``step`` a line."""
    if not path.exists():
        return []
    found = []
    for text in path.read_text("utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # cut short when the process was killed
        if isinstance(line, dict) and isinstance(line.get("step"), int) and line["step"] <= step:
            found.append(line)
    return found


class TensorBoard:
    """Event files for TensorBoard; later points of a run that is continued are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def open_sinks(folder: Path, step: int, tensorboard: bool) -> list[Sink]:
    """The sinks of a run that continues after ``step``."""
    sinks: list[Sink] = [JsonLines(folder / "metrics.jsonl", step)]
    if tensorboard and find_spec("tensorboard") is not None:
        sinks.append(TensorBoard(folder / "tensorboard", step))
    return sinks


class Means:
    """Means of scalars since the last ``take``, kept on their device so that a step does not wait for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
