"""Which weights of adapters are best: a coarse grid, then one weight after the other, in steps that grow smaller.

What a blend is worth is found by drawing, so it is asked for as seldom as possible, and never twice. Without torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Weights = tuple[float, ...]
_SHARE = 0.6
"""Of the budget, what the grid may take: what is left finds the place between its points."""
_DIGITS = 3
_MOST = 9
"""Points of the grid along a weight: a larger budget is better spent near the best of them."""


@dataclass(frozen=True)
class Outcome:
    """What a blend is worth: ``score``, more is better; ``slack``, how far it is above what it must reach."""

    score: float
    slack: float = math.inf


@dataclass(frozen=True)
class Tried:
    """A blend that was asked for."""

    weights: Weights
    outcome: Outcome

    @property
    def meets(self) -> bool:
        """Whether it may be chosen."""
        return self.outcome.slack >= 0

    @property
    def order(self) -> tuple[bool, float, float]:
        """More is better: what may be chosen, by its score; what may not, by how little it lacks; of equals that which
        changes the model least."""
        least = -sum(map(abs, self.weights))
        return (self.meets, self.outcome.score if self.meets else self.outcome.slack, least)


Ask = Callable[[Sequence[Weights]], Sequence[Outcome]]


def least_budget(axes: int, low: float, high: float) -> int:
    """The fewest blends that ``search`` can do with: every corner, and none at all."""
    return len(_grid(axes, low, high, 2))


def search(axes: int, low: float, high: float, budget: int, ask: Ask) -> list[Tried]:
    """Every blend that was tried, in order, at most ``budget``; ``best`` chooses. ``axes`` weights, each from ``low``
    to ``high``. The first question is the whole grid, with no adapter at all as its first blend.

    Coordinate search: from the best blend so far each weight in turn goes a step up and a step down; where nothing is
    better any more, steps are halved, down to a hundredth of the range.
    """
    assert budget >= least_budget(axes, low, high) and low < high
    points = 2
    while points < _MOST and len(_grid(axes, low, high, points + 1)) <= _SHARE * budget:
        points += 1
    tried: dict[Weights, Tried] = {}

    def add(blends: Sequence[Weights]) -> None:
        for weights, outcome in zip(blends, ask(blends), strict=True):
            tried[weights] = Tried(weights, outcome)

    add(_grid(axes, low, high, points))
    step = (high - low) / (points - 1) / 2
    while step >= (high - low) / 100 and len(tried) < budget:
        before = best(tried.values())
        for axis in range(axes):
            here = best(tried.values()).weights
            moved = [_moved(here, axis, change) for change in (step, -step)]
            fresh = [each for each in moved if low <= each[axis] <= high and each not in tried]
            if fresh := fresh[: budget - len(tried)]:
                add(fresh)
        if best(tried.values()) is before:
            step /= 2
    return list(tried.values())


def best(tried: Iterable[Tried]) -> Tried:
    """The one to choose; of equals the first."""
    return max(tried, key=lambda each: each.order)


def _grid(axes: int, low: float, high: float, points: int) -> list[Weights]:
    values = [round(low + (high - low) * place / (points - 1), _DIGITS) for place in range(points)]
    return list(dict.fromkeys([(0.0,) * axes, *itertools.product(values, repeat=axes)]))


def _moved(weights: Weights, axis: int, change: float) -> Weights:
    return (*weights[:axis], round(weights[axis] + change, _DIGITS), *weights[axis + 1 :])
