"""Where a guided teacher's way leads, for a student that is to see the end from anywhere on it: distillation on solved
trajectories (Luhman and Luhman 2021, arXiv 2101.02388), from every state that the solver visits.

In TrigFlow's times and states of deviation one, as in ``consistency.py``. B batch, K steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from frolic.config import Fraction, Section
from frolic.sampling.prediction import per_sample

_SOFTEN = 0.02


class TrajectorySettings(Section):
    """``steps`` of the solver between a start and the finished picture, those near the start shorter with a ``bend``
    above 1. A share (``noisiest``) of the starts is noise alone, the others lie where consistency has its times. Of a
    batch only a ``share`` is solved for: beside heads that judge, which take all of it, that is often enough."""

    steps: Annotated[int, Field(ge=2, le=1000)] = 8
    bend: Annotated[float, Field(ge=1, le=4)] = 1.3
    noisiest: Fraction = 0.5
    share: Annotated[float, Field(gt=0, le=1)] = 1.0


def solve(
    field: Callable[[Tensor, Tensor], Tensor], u: Tensor, time_B: Tensor, settings: TrajectorySettings
) -> tuple[Tensor, Tensor, Tensor]:
    """States [K, B, ...] on the way of ``du/dt = field(u, t)`` from ``u`` at ``time`` to 0, their times [K, B], and the
    end [B, ...]: by Adams and Bashforth's second-order steps, the first one Heun's."""
    shares = 1 - torch.linspace(0, 1, settings.steps + 1, dtype=time_B.dtype, device=time_B.device) ** settings.bend
    times = shares[:, None] * time_B
    states, slopes = [u], [field(u, times[0])]
    for number in range(settings.steps):
        span = times[number + 1] - times[number]
        slope = slopes[-1]
        if number:
            before = times[number] - times[number - 1]
            slope = slope + per_sample(span / (2 * before), u) * (slope - slopes[-2])
        else:
            slope = (slope + field(u + per_sample(span, u) * slope, times[1])) / 2
        states.append(states[-1] + per_sample(span, u) * slope)
        if number + 1 < settings.steps:
            slopes.append(field(states[-1], times[number + 1]))
    return torch.stack(states[:-1]), times[:-1], states[-1]


def distance(found: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """How far pictures [N, ...] are from where they should be, [N]: the root of the mean square, rounded off near 0;
    and the mean square itself."""
    off = (found - end).square().flatten(1).mean(dim=1)
    return (off + _SOFTEN**2).sqrt() - _SOFTEN, off.detach()
