"""From what a network predicts to what a sampler asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from frolic.types import Denoise

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``(x_t [B, ...], timestep [B]) -> v = noise - x0, [B, ...]``; the timestep is on the scale that a schedule tells."""


def flow(velocity: Velocity, timesteps: Callable[[Tensor], Tensor]) -> Denoise:
    """Turn a flow velocity into a denoiser: ``x0 = x - sigma v``. ``timesteps`` is the schedule's."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        t_B = timesteps(sigma.cpu()).to(torch.float32).to(x.device).expand(x.shape[0])
        return x - per_sample(sigma, x) * velocity(x, t_B)

    return denoise


def velocity_of(denoise: Denoise, x: Tensor, sigma: Tensor) -> Tensor:
    """The inverse of ``flow`` at one place: the velocity behind ``denoise``'s estimate at ``x``."""
    return (x - denoise(x, sigma)) / per_sample(sigma, x)


def trig_level(time: Tensor) -> Tensor:
    """The flow's noise level ``sin t / (sin t + cos t)``, 0 to 1, that has the signal-to-noise ratio of a TrigFlow
    ``time``, 0 to pi/2."""
    return time.sin() / (time.sin() + time.cos())


def trig_scale(level: Tensor) -> Tensor:
    """What a flow's state at ``level`` is of TrigFlow's, ``cos(t) x0 + sin(t) noise``, whose deviation is always one:
    ``sqrt(s^2 + (1 - s)^2)``."""
    return (level.square() + (1 - level).square()).sqrt()


def trig_from_flow(velocity: Velocity) -> Velocity:
    """A flow network as a TrigFlow one (SANA-Sprint, arXiv 2503.09641, section 3.1).

    ``velocity`` takes a flow's state [B, ...] and its noise level [B], and gives ``noise - x0``. What comes back takes
    ``u = cos(t) x0 + sin(t) noise`` and the time [B], and gives ``du/dt = cos(t) noise - sin(t) x0``. Both for data of
    deviation one: a published TrigFlow of another is divided by it, in and out.
    """

    def field(u: Tensor, time_B: Tensor) -> Tensor:
        level = trig_level(time_B)
        s, scale = per_sample(level, u), per_sample(trig_scale(level), u)
        x = u * scale
        return ((1 - 2 * s) * x + scale.square() * velocity(x, level)) / scale

    return field


def flow_from_trig(field: Velocity) -> Velocity:
    """The inverse of ``trig_from_flow``: a TrigFlow network as a flow one."""

    def velocity(x: Tensor, level_B: Tensor) -> Tensor:
        s, scale = per_sample(level_B, x), per_sample(trig_scale(level_B), x)
        time_B = torch.atan2(level_B, 1 - level_B)
        return (scale * field(x / scale, time_B) - (1 - 2 * s) * x) / scale.square()

    return velocity


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """``x_t = (1 - sigma) x0 + sigma noise`` [B, ...]: where a sampler starts from a picture."""
    level = per_sample(sigma, x0)
    return (1 - level) * x0 + level * noise


def per_sample(sigma: Tensor, x: Tensor) -> Tensor:
    """``sigma`` ([] or [B]) in the dtype of ``x`` [B, ...], shaped to multiply it."""
    sigma = sigma.to(x.dtype)
    return sigma if sigma.ndim == 0 else sigma.to(x.device).reshape(-1, *[1] * (x.ndim - 1))
