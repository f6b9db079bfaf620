from __future__ import annotations

import pytest

from frolic.eval.layouts import Box, overlap
from frolic.eval.relations import holds


def box(x: float, y: float, wide: float = 0.3, tall: float = 0.3) -> Box:
    return (x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2)


@pytest.mark.parametrize(
    ("a", "b", "true"),
    [
        (box(0.2, 0.5), box(0.8, 0.5), {"left", "beside"}),
        (box(0.8, 0.5), box(0.2, 0.5), {"right", "beside"}),
        (box(0.5, 0.2), box(0.5, 0.8), {"above"}),
        (box(0.5, 0.8), box(0.5, 0.2), {"below"}),
        (box(0.2, 0.2), box(0.8, 0.8), {"left", "above", "beside"}),
        (box(0.2, 0.45), box(0.8, 0.55), {"left", "beside"}),
        (box(0.5, 0.5), box(0.52, 0.5), set()),
        (box(0.55, 0.65, 0.4, 0.4), box(0.45, 0.4, 0.5, 0.5), {"front", "below"}),
        (box(0.45, 0.4, 0.5, 0.5), box(0.55, 0.65, 0.4, 0.4), {"above"}),
    ],
)
def test_what_holds_between_boxes(a: Box, b: Box, true: set[str]) -> None:
    assert {name for name in ("left", "right", "above", "below", "beside", "front") if holds(name, a, b)} == true


def test_overlap_is_a_share_of_the_smaller() -> None:
    assert overlap(box(0.5, 0.5, 0.4, 0.4), box(0.5, 0.5, 0.1, 0.1)) == pytest.approx(1)
    assert overlap(box(0.2, 0.5, 0.2, 0.2), box(0.3, 0.5, 0.2, 0.2)) == pytest.approx(0.5)
    assert overlap(box(0.2, 0.5), box(0.6, 0.5)) == 0
