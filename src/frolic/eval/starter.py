"""``frolic eval starter``: draw the suites' prompts and let the judge say what is in the pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from frolic.errors import RequestError
from frolic.eval.judge import Judge, Sight
from frolic.eval.scoring import Parts, score, seen_alone, shares
from frolic.eval.suites import SUITES, Case

if TYPE_CHECKING:
    from frolic.pipeline import Pipeline

Draw: TypeAlias = Callable[[list[str], int], Tensor]
"""``(prompts, seed) -> pixels [B, 3, H, W] in [-1, 1]``; picture k depends on its prompt and ``seed + k`` only."""

ALL = "all"


def drawer(pipe: Pipeline, **options: Any) -> Draw:
    """``pipe`` as a ``Draw``; ``options`` are fields of ``Request``, None meaning the model's own.

    Raises RequestError: it draws clips.
    """
    if pipe.makes_clips:
        raise RequestError(f"The model {pipe.card.name} draws videos; measure it with `frolic eval starter-video`.")

    def draw(prompts: list[str], seed: int) -> Tensor:
        pixels = pipe(prompts, seed=seed, output="tensor", **options).pixels
        assert pixels is not None
        return pixels

    return draw


@dataclass(frozen=True)
class Row:
    """One judged picture: what was asked for, what the judge sees, and what of it is right.

    ``seen`` is the concept that the picture as one thing shows, ``things`` what is in each box.
    """

    suite: str
    prompt: str
    codes: tuple[str, ...]
    seed: int
    seen: str
    seen_name: str
    probability: float
    things: tuple[dict[str, Any], ...]
    ground: str
    style: str
    parts: Parts
    correct: bool


@dataclass(frozen=True)
class Summary:
    """A suite as a whole: ``accuracy`` is the share that is right, ``parts`` what else was counted, ``ceiling`` what
    share of true pictures of the suite's prompts the judge accepts."""

    suite: str
    n: int
    correct: int
    accuracy: float
    parts: dict[str, float]
    ceiling: float | None
    concepts: int
    seed: int
    seconds: float


@dataclass(frozen=True)
class Overall:
    """Several suites: the mean of their accuracies, and each one's."""

    accuracy: float
    n: int
    suites: dict[str, dict[str, Any]]
    seed: int
    seconds: float
    suite: str = ALL


def names(name: str) -> tuple[str, ...]:
    """The suites that ``--suite`` means."""
    return tuple(SUITES) if name == ALL else (name,)


def evaluate(draw: Draw, judge: Judge, cases: Sequence[Case], seed: int, batch: int) -> Iterator[tuple[Row, Tensor]]:
    """Each case's row and picture [3, H, W] in [-1, 1], in order; picture k has seed ``seed + k`` in any batch size."""
    if batch < 1:
        raise RequestError("Give --batch at least 1.")
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        pixels = draw([case.prompt for case in part], seed + start).float().cpu()
        for offset, (case, sight) in enumerate(zip(part, judge.look(pixels), strict=True)):
            yield _row(case, sight, judge, seed + start + offset), pixels[offset]


def _row(case: Case, sight: Sight, judge: Judge, seed: int) -> Row:
    called = {concept.code: concept.name for concept in judge.concepts}
    alone = seen_alone(sight, judge).softmax(-1)
    seen = judge.best(alone, 1)[0]
    things = tuple(
        {
            "code": (code := judge.best(thing.named.chances, 1)[0]),
            "name": called[code],
            "probability": round(float(thing.named.chances.max().exp()), 3),
            "box": [round(edge, 3) for edge in thing.box],
            "score": round(thing.score, 3),
            "colour": thing.colour,
        }
        for thing in sight.things
    )
    parts = score(case, sight, judge)
    return Row(
        suite=case.suite,
        prompt=case.prompt,
        codes=case.codes,
        seed=seed,
        seen=seen,
        seen_name=called[seen],
        probability=round(float(alone.max()), 4),
        things=things,
        ground=sight.landscape or sight.ground,
        style=sight.whole.style,
        parts=parts,
        correct=parts["correct"],
    )


def summarise(name: str, rows: Sequence[Row], judge: Judge, seed: int, started: float) -> Summary:
    """``started`` is ``time.monotonic()`` at the beginning of the run."""
    correct = sum(row.correct for row in rows)
    parts = shares([row.parts for row in rows])
    parts.pop("correct")
    return Summary(
        suite=name,
        n=len(rows),
        correct=correct,
        accuracy=round(correct / len(rows), 4),
        parts=parts,
        ceiling=judge.facts.get("ceilings", {}).get(name, {}).get("accuracy"),
        concepts=len(judge.codes),
        seed=seed,
        seconds=round(time.monotonic() - started, 2),
    )


def overall(summaries: Sequence[Summary]) -> Overall:
    """All suites' figures in one; each suite counts alike."""
    return Overall(
        accuracy=round(sum(summary.accuracy for summary in summaries) / len(summaries), 4),
        n=sum(summary.n for summary in summaries),
        suites={
            summary.suite: {
                "accuracy": summary.accuracy,
                "n": summary.n,
                "parts": summary.parts,
                "ceiling": summary.ceiling,
            }
            for summary in summaries
        },
        seed=summaries[0].seed,
        seconds=round(sum(summary.seconds for summary in summaries), 2),
    )


def as_json(value: Row | Summary | Overall) -> str:
    """One JSON line."""
    return json.dumps(asdict(value), ensure_ascii=False)
