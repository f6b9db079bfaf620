"""Where one box is from another. Boxes are left, top, right, bottom, downwards positive."""

from __future__ import annotations

import math

from frolic.eval.layouts import Box, overlap

_SLACK = 0.1
_ALONG = 0.5
_TOUCH = 0.03


def holds(relation: str, a: Box, b: Box) -> bool:
    """Whether ``a`` is ``left``, ``right``, ``above``, ``below``, ``beside`` or in ``front`` of ``b``.

    The first four follow GenEval (Ghosh et al. 2023): how far the centres are apart beyond a tenth of both sizes, and
    a direction holds if more than half of that lies along it. Beside is left or right of it. In front of it is what
    covers part of its box and stands lower, which is how depth is drawn on a flat picture.
    """
    if relation == "front":
        return overlap(a, b) > _TOUCH and a[3] > b[3]
    if relation == "beside":
        return holds("left", a, b) or holds("right", a, b)
    dx = _beyond((a[0] + a[2] - b[0] - b[2]) / 2, (a[2] - a[0]) + (b[2] - b[0]))
    dy = _beyond((a[1] + a[3] - b[1] - b[3]) / 2, (a[3] - a[1]) + (b[3] - b[1]))
    away = math.hypot(dx, dy)
    if not away:
        return False
    along = {"left": -dx, "right": dx, "above": -dy, "below": dy}[relation]
    return along / away > _ALONG


def _beyond(offset: float, sizes: float) -> float:
    return math.copysign(max(0.0, abs(offset) - _SLACK * sizes), offset)
