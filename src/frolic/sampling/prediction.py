"""From what a network predicts to what a sampler asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from frolic.types import Denoise

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``(x_t [B, ...], timestep [B] on the 0..1000 scale) -> v = noise - x0, [B, ...]``."""


def flow(velocity: Velocity, timesteps: Callable[[Tensor], Tensor]) -> Denoise:
    """Turn a flow velocity into a denoiser: ``x0 = x - sigma v``. ``timesteps`` is the schedule's."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        t_B = timesteps(sigma.cpu()).to(torch.float32).to(x.device).expand(x.shape[0])
        return x - per_sample(sigma, x) * velocity(x, t_B)

    return denoise


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """``x_t = (1 - sigma) x0 + sigma noise`` [B, ...]: where a sampler starts from a picture."""
    level = per_sample(sigma, x0)
    return (1 - level) * x0 + level * noise


def per_sample(sigma: Tensor, x: Tensor) -> Tensor:
    """``sigma`` ([] or [B]) in the dtype of ``x`` [B, ...], shaped to multiply it."""
    sigma = sigma.to(x.dtype)
    return sigma if sigma.ndim == 0 else sigma.to(x.device).reshape(-1, *[1] * (x.ndim - 1))
