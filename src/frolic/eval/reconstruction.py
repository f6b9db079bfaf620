"""How well the autoencoder keeps a picture: PSNR and LPIPS on true pictures that no training saw.

N pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Rebuild = Callable[[Tensor], Tensor]
"""``[1, 3, H, W]`` in [-1, 1] to the same through the latents."""


@dataclass(frozen=True)
class Reconstruction:
    """Means over ``n`` pictures: decibels of the peak over the noise, and the perceptual distance (None: not asked)."""

    n: int
    psnr: float
    lpips: float | None


def psnr(a: Tensor, b: Tensor) -> float:
    """Decibels for pictures in [-1, 1]; 100 where they are the same."""
    error = float((a.float() - b.float()).square().mean()) / 4
    return 100.0 if error < 1e-10 else -10 * float(torch.tensor(error).log10())


@torch.no_grad()
def measure(rebuild: Rebuild, pictures_N3HW: Tensor, lpips: nn.Module | None = None) -> Reconstruction:
    """Each picture's figures, then their mean."""
    noise, distance = [], []
    for x in pictures_N3HW.split(1):
        y = rebuild(x).clamp(-1, 1)
        noise.append(psnr(x, y))
        if lpips is not None:
            distance.append(float(lpips(x, y)))
    count = len(noise)
    return Reconstruction(count, round(sum(noise) / count, 2), round(sum(distance) / count, 4) if distance else None)
