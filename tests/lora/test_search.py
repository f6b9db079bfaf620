"""Which weights are best, found in few questions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest

from frolic.lora.search import Outcome, Tried, Weights, best, least_budget, search


class Worth:
    """Answers with ``score``, and keeps what was asked."""

    def __init__(self, score: Callable[[Weights], float], slack: Callable[[Weights], float] = lambda w: math.inf):
        self.score, self.slack = score, slack
        self.asked: list[list[Weights]] = []

    def __call__(self, blends: Sequence[Weights]) -> list[Outcome]:
        self.asked.append(list(blends))
        return [Outcome(self.score(each), self.slack(each)) for each in blends]


def bowl(*middle: float) -> Callable[[Weights], float]:
    return lambda weights: -sum((a - b) ** 2 for a, b in zip(weights, middle, strict=True))


@pytest.mark.parametrize("middle", [(0.31,), (0.62, 0.17), (0.0, 1.0), (0.2, 0.7, 0.45)])
def test_it_comes_near_the_best(middle: tuple[float, ...]) -> None:
    worth = Worth(bowl(*middle))
    budget = {1: 16, 2: 45, 3: 120}[len(middle)]
    tried = search(len(middle), 0.0, 1.0, budget, worth)
    chosen = best(tried)
    assert max(abs(a - b) for a, b in zip(chosen.weights, middle, strict=True)) <= 0.03
    assert len(tried) <= budget
    # Finer than the grid that the same budget pays for.
    points = int(budget ** (1 / len(middle)))
    grid = itertools.product(*[[place / (points - 1) for place in range(points)]] * len(middle))
    assert worth.score(chosen.weights) >= max(map(worth.score, grid)) - 1e-3


def test_nothing_is_asked_twice_and_the_budget_is_kept() -> None:
    for budget in range(4, 40):
        worth = Worth(bowl(0.4, 0.9))
        tried = search(2, 0.0, 1.0, budget, worth)
        asked = list(itertools.chain(*worth.asked))
        assert len(asked) == len(set(asked)) == len(tried) <= budget
        assert asked == [each.weights for each in tried]
        assert worth.asked[0][0] == (0, 0) and all(0 <= weight <= 1 for each in asked for weight in each)


def test_the_chosen_one_is_the_best_of_all_that_may_be() -> None:
    worth = Worth(bowl(1.0, 1.0), slack=lambda weights: 0.9 - sum(weights))
    tried = search(2, 0.0, 1.0, 60, worth)
    chosen = best(tried)
    assert chosen.meets and sum(chosen.weights) <= 0.9
    assert chosen.outcome.score == max(each.outcome.score for each in tried if each.meets)
    assert any(each.outcome.score > chosen.outcome.score for each in tried), "and the floor did hold something back"
    assert sum(chosen.weights) > 0.85, "the edge is where the best is"


def test_where_nothing_may_be_chosen_what_lacks_least_is_first() -> None:
    worth = Worth(bowl(1.0), slack=lambda weights: -1 - (weights[0] - 0.3) ** 2)
    chosen = best(search(1, 0.0, 1.0, 20, worth))
    assert not chosen.meets and abs(chosen.weights[0] - 0.3) < 0.03


def test_of_equals_the_least_change() -> None:
    assert best(search(2, 0.0, 1.0, 20, Worth(lambda weights: 1.0))).weights == (0, 0)
    first, second = (Tried(weights, Outcome(1.0)) for weights in ((0.2, 0.3), (0.3, 0.2)))
    assert best([first, second]) is first and best([second, first]) is second


def test_no_adapter_at_all_is_tried_where_the_range_leaves_it_out() -> None:
    worth = Worth(bowl(0.6))
    tried = search(1, 0.5, 1.0, 8, worth)
    assert tried[0].weights == (0.0,) and all(each.weights[0] >= 0.5 for each in tried[1:])
    assert least_budget(1, 0.5, 1.0) == 3 and least_budget(2, 0.0, 1.0) == 4 and least_budget(2, -1.0, 1.0) == 5


def test_it_is_the_same_each_time() -> None:
    runs = [search(2, 0.0, 1.2, 30, Worth(lambda w: math.sin(7 * w[0]) * math.cos(3 * w[1]))) for _ in range(2)]
    assert runs[0] == runs[1]
