"""A network for samplers to draw with, and one that is a joint call of several."""

from __future__ import annotations

import torch
from torch import Tensor


def toy_velocity(x: Tensor, t: Tensor) -> Tensor:
    """Nonlinear in x and t, and mixes positions."""
    t = t.reshape(-1, 1, 1, 1) / 1000
    return torch.tanh(1.3 * x + t) * (0.5 + t) + 0.2 * x.roll(1, -1).sin()


def cond(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.sin(x) + sigma.to(x).reshape(-1, 1, 1, 1)


def uncond(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.cos(x) * sigma.to(x).reshape(-1, 1, 1, 1)


def perturbed(x: Tensor, sigma: Tensor) -> Tensor:
    return 0.4 * torch.sin(x + 0.3) - sigma.to(x).reshape(-1, 1, 1, 1)


def joint_of(*parts):
    """``[k B, ...]`` to one part's answer after the other."""

    def joint(x: Tensor, sigma: Tensor) -> Tensor:
        sigmas = sigma.expand(len(parts)) if sigma.ndim == 0 else sigma.chunk(len(parts))
        return torch.cat([part(row, s) for part, row, s in zip(parts, x.chunk(len(parts)), sigmas, strict=True)])

    return joint
