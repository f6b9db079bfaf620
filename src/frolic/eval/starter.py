"""``frolic eval starter``: draw a suite of everyday prompts and let the judge say what is in the pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from frolic.errors import RequestError, nearest
from frolic.eval.judge import Judge

if TYPE_CHECKING:
    from frolic.pipeline import Pipeline

SINGLE_EVERYDAY = "single-everyday"


Draw: TypeAlias = Callable[[list[str], int], Tensor]
"""``(prompts, seed) -> pixels [B, 3, H, W] in [-1, 1]``; picture k depends on its prompt and ``seed + k`` only."""


def drawer(pipe: Pipeline, **options: Any) -> Draw:
    """``pipe`` as a ``Draw``; ``options`` are fields of ``Request``, None meaning the model's own."""

    def draw(prompts: list[str], seed: int) -> Tensor:
        pixels = pipe(prompts, seed=seed, output="tensor", **options).pixels
        assert pixels is not None
        return pixels

    return draw


@dataclass(frozen=True)
class Case:
    """One prompt and the code of the concept that its picture must show."""

    code: str
    name: str
    prompt: str


@dataclass(frozen=True)
class Row:
    """One judged picture: what was asked for (``code``), what the judge sees (``seen``) and how sure it is."""

    prompt: str
    code: str
    seed: int
    seen: str
    seen_name: str
    probability: float
    best: tuple[str, ...]
    correct: bool


@dataclass(frozen=True)
class Summary:
    """The run as a whole: ``accuracy`` is top-1 among all concepts, ``top5`` counts the five best."""

    suite: str
    n: int
    correct: int
    accuracy: float
    top5: float
    concepts: int
    judge_held_out: float | None
    seed: int
    seconds: float


def suite(name: str, limit: int | None = None) -> list[Case]:
    """The cases of a suite; ``limit`` takes that many, evenly spaced. Raises RequestError for an unknown name."""
    if name != SINGLE_EVERYDAY:
        raise RequestError(
            f"Choose the suite {SINGLE_EVERYDAY}: {name!r} is not known{nearest(name, [SINGLE_EVERYDAY])}."
        )
    if limit is not None and limit < 1:
        raise RequestError("Give --limit at least 1.")
    rows = json.loads(resources.files(__package__).joinpath("everyday.json").read_text("utf-8"))
    cases = [Case(**row) for row in rows]
    if limit is None or limit >= len(cases):
        return cases
    return [cases[index * len(cases) // limit] for index in range(limit)]


def evaluate(draw: Draw, judge: Judge, cases: Sequence[Case], seed: int, batch: int) -> Iterator[tuple[Row, Tensor]]:
    """Each case's row and picture [3, H, W] in [-1, 1], in order; picture k has seed ``seed + k`` in any batch size."""
    if batch < 1:
        raise RequestError("Give --batch at least 1.")
    names = judge.names()
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        pixels = draw([case.prompt for case in part], seed + start).float().cpu()
        for offset, (case, verdict) in enumerate(zip(part, judge.judge(pixels), strict=True)):
            row = Row(
                prompt=case.prompt,
                code=case.code,
                seed=seed + start + offset,
                seen=verdict.code,
                seen_name=names[verdict.code],
                probability=round(verdict.probability, 4),
                best=verdict.best,
                correct=verdict.code == case.code,
            )
            yield row, pixels[offset]


def summarise(name: str, rows: Sequence[Row], judge: Judge, seed: int, started: float) -> Summary:
    """``started`` is ``time.monotonic()`` at the beginning of the run."""
    correct = sum(row.correct for row in rows)
    return Summary(
        suite=name,
        n=len(rows),
        correct=correct,
        accuracy=round(correct / len(rows), 4),
        top5=round(sum(row.code in row.best for row in rows) / len(rows), 4),
        concepts=len(judge.codes),
        judge_held_out=judge.facts.get("held_out", {}).get("accuracy"),
        seed=seed,
        seconds=round(time.monotonic() - started, 2),
    )


def as_json(value: Row | Summary) -> str:
    """One JSON line."""
    return json.dumps(asdict(value), ensure_ascii=False)
