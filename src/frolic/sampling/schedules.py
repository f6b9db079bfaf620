"""Noise levels of a sampler: float64 tensors ``[steps + 1]`` on the CPU that fall from near 1 to exactly 0.

float64, because the integer timestep a model was trained on is ``floor(1000 * sigma)`` and float32 lands on the wrong
side of some integers. Solvers round to float32 where diffusers does.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRAIN_STEPS = 1000


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels up: ``s u / (1 + (s - 1) u)`` (Stable Diffusion 3, arXiv 2403.03206, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def flow_sigmas(steps: int, shift: float) -> Tensor:
    """Levels of diffusers' ``DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=shift)``."""
    assert steps >= 1 and shift > 0
    uniform = 1.0 - _linspace(1.0, 1.0 / TRAIN_STEPS, steps + 1)
    sigmas = shifted(uniform, shift).flip(0)
    sigmas[-1] = 0.0
    return sigmas


def euler_sigmas(steps: int, shift: float) -> Tensor:
    """Levels of diffusers' ``FlowMatchEulerDiscreteScheduler(shift=shift)``.

    The shift acts twice on the lower end, as it does there: once where the scheduler notes its smallest level, once on
    the levels spread between that and 1.
    """
    assert steps >= 1 and shift > 0
    ends = shifted(torch.tensor([1.0, 1.0 / TRAIN_STEPS]), shift).double() * TRAIN_STEPS
    uniform = _linspace(float(ends[0]), float(ends[1]), steps) / TRAIN_STEPS
    return torch.cat([shifted(uniform, shift), torch.zeros(1, dtype=torch.float64)])


def _linspace(start: float, stop: float, count: int) -> Tensor:
    """Evenly spaced float64 values, each computed from ``start`` as numpy does (torch counts from both ends)."""
    if count == 1:
        return torch.tensor([start], dtype=torch.float64)
    step = (stop - start) / (count - 1)
    values = torch.arange(count, dtype=torch.float64) * step + start
    values[-1] = stop
    return values
