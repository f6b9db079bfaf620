"""``frolic eval starter-sprint``: how near a model of a few steps comes to the one that it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from frolic.eval import measure
from frolic.eval.judge import Judge
from frolic.eval.starter import drawer, evaluate
from frolic.eval.suites import Case
from frolic.pipeline.result import to_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from frolic.pipeline import Pipeline

STEPS = (1, 2, 4)


@dataclass(frozen=True)
class Few:
    """Of ``n`` prompts drawn by ``model`` in ``steps``: the share that is right, what share that is of what the whole
    model has right (None: that has nothing right), and the Frechet distance of other prompts' pictures from true
    ones (None: not asked for)."""

    model: str
    steps: int
    n: int
    accuracy: float
    share: float | None = None
    fid: float | None = None


def compare(
    few: Pipeline,
    whole: Pipeline,
    judge: Judge,
    cases: Sequence[Case],
    seed: int,
    batch: int,
    true: measure.Truth | None = None,
) -> Iterator[Few]:
    """``whole`` in its own number of steps, then ``few`` in each of ``STEPS``, all from the same seeds."""

    def row(pipe: Pipeline, steps: int) -> Few:
        draw = drawer(pipe, steps=steps)
        right = [found.correct for found, _ in evaluate(draw, judge, cases, seed, batch)]
        fid = None if true is None else measure.distance(draw, true, seed, batch).fid
        return Few(pipe.card.name, steps, len(right), round(sum(right) / len(right), 4), fid=fid)

    first = row(whole, whole.defaults.steps)
    yield first
    for steps in STEPS:
        found = row(few, steps)
        yield replace(found, share=round(found.accuracy / first.accuracy, 4) if first.accuracy else None)


def side_by_side(few: Pipeline, whole: Pipeline, prompts: Sequence[str], seed: int) -> tuple[list[Image], list[str]]:
    """The same prompts and seeds by ``whole``, then by ``few`` in 1 and in 2 steps; and what each is."""
    pictures: list[Image] = []
    labels = []
    for pipe, steps in ((whole, whole.defaults.steps), (few, 1), (few, 2)):
        pixels = drawer(pipe, steps=steps)(list(prompts), seed)
        pictures += [to_image(picture) for picture in pixels]
        labels += [f"{prompt}: {steps} step{'s' * (steps > 1)}" for prompt in prompts]
    return pictures, labels


def markdown(rows: Sequence[Few]) -> str:
    """A table with a line for each."""
    lines = ["| | steps | right | of the whole model's | FID |", "|---|---|---|---|---|"]
    for row in rows:
        share = "" if row.share is None else f"{row.share:.0%}"
        fid = "" if row.fid is None else f"{row.fid:g}"
        lines.append(f"| {row.model} | {row.steps} | {row.accuracy:.1%} of {row.n} | {share} | {fid} |")
    return "\n".join(lines)
