"""From what a network predicts to what a sampler asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from frolic.sampling.schedules import TRAIN_STEPS
from frolic.types import Denoise

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``(x_t [B, ...], timestep [B] on the 0..1000 scale) -> v = noise - x0, [B, ...]``."""


def flow(velocity: Velocity, integer_timesteps: bool) -> Denoise:
    """Turn a flow velocity into a denoiser: ``x0 = x - sigma v``.

    ``integer_timesteps`` truncates ``1000 sigma`` as diffusers' DPM-Solver does; its Euler keeps the fraction.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        timestep = sigma.double().cpu() * TRAIN_STEPS
        if integer_timesteps:
            timestep = timestep.floor()
        t_B = timestep.to(torch.float32).to(x.device).expand(x.shape[0])
        return x - per_sample(sigma, x) * velocity(x, t_B)

    return denoise


def per_sample(sigma: Tensor, x: Tensor) -> Tensor:
    """``sigma`` ([] or [B]) in the dtype of ``x`` [B, ...], shaped to multiply it."""
    sigma = sigma.to(x.dtype)
    return sigma if sigma.ndim == 0 else sigma.to(x.device).reshape(-1, *[1] * (x.ndim - 1))
