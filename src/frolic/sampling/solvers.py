"""Solvers of the flow ODE ``x_t = (1 - sigma) x0 + sigma noise``, as generators that yield after every step.

Both follow diffusers' schedulers to float32 rounding: ``DPMSolverMultistepScheduler`` (dpmsolver++, order 2, midpoint,
flow sigmas, final sigma zero) and ``FlowMatchEulerDiscreteScheduler``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from frolic.sampling.schedules import euler_sigmas, flow_sigmas
from frolic.types import Denoise


@dataclass(frozen=True)
class Step:
    """One finished step, ``index`` from 0: ``x`` [B, ...] is the state after it, ``denoised`` the x0 it used."""

    index: int
    total: int
    x: Tensor
    denoised: Tensor


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[Step]:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2) over ``sigmas`` [steps + 1], which end in 0.

    The first step has no history and the last has an infinite log-SNR step, so both are first order.
    """
    levels = sigmas.float().tolist()
    total = len(levels) - 1
    assert total >= 1 and levels[-1] == 0.0
    previous: Tensor | None = None
    for i in range(total):
        denoised = denoise(x, sigmas[i])
        direction = denoised
        if previous is not None and i < total - 1:
            ratio = (_log_snr(levels[i + 1]) - _log_snr(levels[i])) / (_log_snr(levels[i]) - _log_snr(levels[i - 1]))
            direction = denoised + (0.5 * ratio) * (denoised - previous)
        # alpha' (1 - exp(-h)) written without the logarithms, which keeps the last step exact.
        shrink = levels[i + 1] / levels[i]
        gain = (1 - levels[i + 1]) - (1 - levels[i]) * shrink
        x = shrink * x + gain * direction
        previous = denoised
        yield Step(i, total, x, denoised)


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[Step]:
    """Euler's method on the velocity ``(x - x0) / sigma`` over ``sigmas`` [steps + 1], which end in 0."""
    levels = sigmas.float().tolist()
    total = len(levels) - 1
    assert total >= 1 and levels[-1] == 0.0
    for i in range(total):
        denoised = denoise(x, sigmas[i])
        shrink = levels[i + 1] / levels[i]
        x = shrink * x + (1 - shrink) * denoised
        yield Step(i, total, x, denoised)


def _log_snr(sigma: float) -> float:
    """``log(alpha / sigma)``; infinite at ``sigma = 1``, where a second-order term rightly vanishes."""
    return -math.inf if sigma >= 1 else math.log1p(-sigma) - math.log(sigma)


@dataclass(frozen=True)
class Sampler:
    """A solver with the schedule and the kind of timestep it was published with."""

    solve: Callable[[Denoise, Tensor, Tensor], Iterator[Step]]
    sigmas: Callable[[int, float], Tensor]
    integer_timesteps: bool


SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "dpmpp_2m": Sampler(dpmpp_2m, flow_sigmas, integer_timesteps=True),
        "euler": Sampler(euler, euler_sigmas, integer_timesteps=False),
    }
)
