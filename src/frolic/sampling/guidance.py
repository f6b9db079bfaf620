"""Guidance: functions from denoiser to denoiser. A guided x0 is a guided velocity, because x0 is linear in it."""

from __future__ import annotations

import torch
from torch import Tensor

from frolic.types import Denoise


def cfg(cond: Denoise, uncond: Denoise, scale: float) -> Denoise:
    """Classifier-free guidance (arXiv 2207.12598): ``u + scale (c - u)``, as two calls."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        unguided = uncond(x, sigma)
        return unguided + scale * (cond(x, sigma) - unguided)

    return denoise


def cfg_batched(joint: Denoise, scale: float) -> Denoise:
    """The same as one call: ``joint`` takes ``[2B, ...]``, the unconditional half first."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        doubled = sigma if sigma.ndim == 0 else torch.cat([sigma, sigma])
        unguided, guided = joint(torch.cat([x, x]), doubled).chunk(2)
        return unguided + scale * (guided - unguided)

    return denoise
