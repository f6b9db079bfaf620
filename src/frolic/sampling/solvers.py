"""Solvers of the flow ODE ``x_t = (1 - sigma) x0 + sigma noise``, as generators that yield after every step, and the
sampler of models whose every estimate is a picture.

They follow diffusers' schedulers to float32 rounding: ``DPMSolverMultistepScheduler`` (dpmsolver++, flow sigmas, final
sigma zero), ``UniPCMultistepScheduler`` (likewise, bh2) and ``FlowMatchEulerDiscreteScheduler``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from frolic.sampling.few import FEW
from frolic.sampling.prediction import add_noise, per_sample, trig_scale
from frolic.sampling.schedules import SCHEDULES, Schedule
from frolic.types import Denoise

_FEW_STEPS = 15


@dataclass(frozen=True)
class Step:
    """One finished step, ``index`` from 0: ``x`` [B, ...] is the state after it, ``denoised`` the x0 it used."""

    index: int
    total: int
    x: Tensor
    denoised: Tensor


def dpmpp(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    order: Literal[1, 2, 3] = 2,
    solver_type: Literal["midpoint", "heun"] = "midpoint",
    lower_order_final: bool = True,
    whole: int | None = None,
) -> Iterator[Step]:
    """Multistep DPM-Solver++ (arXiv 2211.01095) over ``sigmas`` [steps + 1], which end in 0.

    The first steps have too little history for the full ``order``. The last has an infinite log-SNR step, so it is
    always first order, which is why diffusers' ``euler_at_final`` changes nothing here. With ``lower_order_final`` and
    fewer than 15 steps the last but one is at most second order; where ``sigmas`` are the end of a schedule, the steps
    of the ``whole`` count. ``solver_type`` is that of second-order steps.
    """
    levels = sigmas.float().tolist()
    total = len(levels) - 1
    assert total >= 1 and levels[-1] == 0.0
    estimates: list[Tensor] = []
    for i in range(total):
        denoised = denoise(x, sigmas[i])
        estimates = [denoised, *estimates[: order - 1]]
        current = len(estimates)
        if i == total - 1:
            current = 1
        elif i == total - 2 and lower_order_final and (whole or total) < _FEW_STEPS:
            current = min(current, 2)
        direction = _direction(estimates[:current], levels[: i + 2], solver_type)
        shrink = levels[i + 1] / levels[i]
        x = shrink * x + _gain(levels[i], levels[i + 1]) * direction
        yield Step(i, total, x, denoised)


def unipc(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[Step]:
    """UniPC of order 2 with ``B(h) = e^h - 1`` (arXiv 2302.04867) over ``sigmas`` [steps + 1], which end in 0.

    Each estimate first corrects the step that led to where it was made, and then predicts the next, which is a step of
    ``dpmpp``. The first steps and the last are of first order.
    """
    levels = sigmas.float().tolist()
    total = len(levels) - 1
    assert total >= 1 and levels[-1] == 0.0
    estimates: list[Tensor] = []
    before, order = x, 1
    for i in range(total):
        denoised = denoise(x, sigmas[i])
        if i:
            x = _corrected(denoised, estimates[:order], before, levels[: i + 1])
        estimates = [denoised, *estimates[:1]]
        order = min(2, total - i, len(estimates))
        before = x
        direction = _direction(estimates[:order], levels[: i + 2], "midpoint")
        x = (levels[i + 1] / levels[i]) * x + _gain(levels[i], levels[i + 1]) * direction
        yield Step(i, total, x, denoised)


def _corrected(newest: Tensor, estimates: Sequence[Tensor], before: Tensor, levels: Sequence[float]) -> Tensor:
    """Where the last step, over the last two ``levels`` and from ``before``, leads by what is known since: the x0
    estimate there, ``newest``, beside the earlier ``estimates`` that it was made with."""
    lambdas = [_log_snr(level) for level in levels[-len(estimates) - 1 :]]
    h = lambdas[-1] - lambdas[-2]
    direction = estimates[0]
    if len(estimates) == 1:
        direction = direction + 0.5 * (newest - direction)
    else:
        # The two weights that make a step exact for estimates that are linear and quadratic in log-SNR.
        first = -1 / h - 1 / math.expm1(-h)
        second = 2 * ((math.expm1(-h) / -h - 1) / -h - 0.5) / math.expm1(-h)
        ratio = (lambdas[-3] - lambdas[-2]) / h
        early = (first - second) / (1 - ratio)
        direction = direction + (early / ratio) * (estimates[1] - direction) + (first - early) * (newest - direction)
    return (levels[-1] / levels[-2]) * before + _gain(levels[-2], levels[-1]) * direction


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


def scm(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Callable[[int], Tensor]) -> Iterator[Step]:
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1; diffusers' ``SCMScheduler``) over
    ``sigmas`` [steps + 1], which end in 0: each estimate is noised again for the next step, by ``noise`` of the number
    of the step it follows, like ``x``. None follows the last."""
    total = len(sigmas) - 1
    assert total >= 1 and float(sigmas[-1]) == 0.0
    for i in range(total):
        denoised = denoise(x, sigmas[i])
        x = denoised if i == total - 1 else add_noise(denoised, noise(i), sigmas[i + 1])
        yield Step(i, total, x, denoised)


def _direction(estimates: Sequence[Tensor], levels: Sequence[float], solver_type: str) -> Tensor:
    """What x moves towards between the last two ``levels``: the newest x0 estimate (they are newest first), carried on
    along divided differences with the earlier ones, as many as there are."""
    newest = estimates[0]
    if len(estimates) == 1:
        return newest
    lambdas = [_log_snr(level) for level in levels[-len(estimates) - 1 :]]
    h, h_0 = lambdas[-1] - lambdas[-2], lambdas[-2] - lambdas[-3]
    if len(estimates) == 2 and solver_type == "midpoint":
        return newest + (0.5 * (h / h_0)) * (newest - estimates[1])
    gain, alpha = _gain(levels[-2], levels[-1]), 1 - levels[-1]
    first = (alpha - gain / h) / gain
    if len(estimates) == 2:
        return newest + (first * (h / h_0)) * (newest - estimates[1])
    h_1 = lambdas[-3] - lambdas[-4]
    slope = (h / h_0) * (newest - estimates[1])
    bend = (slope - (h / h_1) * (estimates[1] - estimates[2])) * (h / (h_0 + h_1))
    second = first / h - alpha / (2 * gain)
    return newest + first * slope + (first * (h_0 / h) - second) * bend


def _gain(level: float, lower: float) -> float:
    """``alpha' (1 - exp(-h))`` without the logarithms, which keeps the last step exact."""
    return (1 - lower) - (1 - level) * (lower / level)


def _log_snr(sigma: float) -> float:
    """``log(alpha / sigma)``; infinite at ``sigma = 1``, where a higher-order term rightly vanishes."""
    return -math.inf if sigma >= 1 else math.log1p(-sigma) - math.log(sigma)


@dataclass(frozen=True)
class Sampler:
    """A solver, and on which grid of a schedule it works. One that ``renoises`` takes noise for its later steps too."""

    solve: Callable[..., Iterator[Step]]
    grid: str
    renoises: bool = False

    def schedule(self, name: str = "diffusers") -> Schedule:
        """Noise levels and timesteps; ``name`` is a key of ``SCHEDULES``."""
        return SCHEDULES[name][self.grid]

    def start(self, noise: Tensor, sigma: Tensor) -> Tensor:
        """The state [B, ...] at the level ``sigma`` of which nothing but ``noise`` is known. A flow is begun near level
        1, with the noise itself; TrigFlow's first time may be any, and there the noise has deviation one."""
        return noise * per_sample(trig_scale(sigma), noise) if self.renoises else noise

    def steps(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Callable[[int], Tensor], whole: int | None = None
    ) -> Iterator[Step]:
        """``solve``, with ``noise`` for those that ask for it. ``whole``: of how many steps ``sigmas`` are the end."""
        if self.renoises:
            return self.solve(denoise, x, sigmas, noise)
        solve = partial(self.solve, whole=whole) if self.grid == "dpmpp" else self.solve
        return solve(denoise, x, sigmas)


SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "dpmpp_2m": Sampler(dpmpp, "dpmpp"),
        "dpmpp_2m_heun": Sampler(partial(dpmpp, solver_type="heun"), "dpmpp"),
        "dpmpp_3m": Sampler(partial(dpmpp, order=3), "dpmpp"),
        "dpmpp_3m_heun": Sampler(partial(dpmpp, order=3, solver_type="heun"), "dpmpp"),
        "dpmpp_1s": Sampler(partial(dpmpp, order=1), "dpmpp"),
        "euler": Sampler(euler, "euler"),
        "unipc": Sampler(unipc, "unipc"),
        FEW: Sampler(scm, "scm", renoises=True),
    }
)
"""The default first."""
