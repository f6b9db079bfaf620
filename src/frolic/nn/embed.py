"""Embeddings of time and of patches.  B batch, C channels, L tokens, D width, p patch side."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoid(t: Tensor, width: int, *, max_period: float = 10000.0) -> Tensor:
    """``[cos(t w_i), sin(t w_i)]`` with ``w_i`` geometric from 1 to ``1/max_period``: ``[..., width]`` in float32."""
    half = width // 2
    freqs = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[..., None] * freqs
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedder(nn.Module):
    """Sinusoid of ``frequencies``, then a two-layer perceptron with SiLU.  ``[B] -> [B, D]``, ``[B, T] -> [B, T, D]``.

    A leading batch stays one, so that what is mixed for each of its rows can be.
    """

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.fc1 = nn.Linear(frequencies, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        features = sinusoid(t, self.frequencies).to(self.fc1.weight.dtype)
        return self.fc2(F.silu(self.fc1(features)))


def patchify(x_BCHW: Tensor, patch: int) -> Tensor:
    """Pictures to tokens, ``[B, (H/p)(W/p), C p p]``, in the order of a strided convolution's weight."""
    return rearrange(x_BCHW, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpatchify(x_BLD: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Tokens ``[B, h w, p p C]`` back to ``[B, C, h p, w p]``; channels vary fastest, as SANA's last layer writes."""
    return rearrange(x_BLD, "b (h w) (p q c) -> b c (h p) (w q)", h=grid[0], w=grid[1], p=patch, q=patch)
