"""Rotary positions.  B batch, T/H/W frames, rows and columns of tokens, L tokens, N heads, K head width."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """How many of a head's channels turn with the frame, the row and the column: a third each, and what is left over
    with the frame (44, 42 and 42 of 128)."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


@lru_cache(maxsize=8)
def _angles(grid: tuple[int, int, int], head_dim: int, theta: float) -> Tensor:
    """[L, K / 2] in float64."""
    parts = []
    for axis, (length, width) in enumerate(zip(grid, axis_widths(head_dim), strict=True)):
        speeds = theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = torch.arange(length, dtype=torch.float64)[:, None] * speeds
        shape = [1, 1, 1, angles.shape[1]]
        shape[axis] = length
        parts.append(angles.view(shape).expand(*grid, -1))
    return torch.cat(parts, dim=-1).reshape(-1, head_dim // 2)


def rotation_3d(grid: tuple[int, int, int], head_dim: int, device: torch.device, theta: float = 10000.0) -> Tensor:
    """For tokens of a clip, frame by frame and row by row: ``[L, K / 2, 2]``, the cosine and the sine of each pair of
    channels, in float32. Su et al. 2021 (arXiv 2104.09864), along three axes as in Wan (arXiv 2503.20314)."""
    assert head_dim % 2 == 0
    angles = _angles(grid, head_dim, theta)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).to(device, torch.float32)


def rotate(x_BLNK: Tensor, turn_LK2: Tensor) -> Tensor:
    """Neighbouring channels of ``x`` as points of a plane, turned; computed in float32."""
    pairs = torch.view_as_complex(x_BLNK.float().unflatten(-1, (-1, 2)))
    turned = pairs * torch.view_as_complex(turn_LK2)[:, None]
    return torch.view_as_real(turned).flatten(-2).to(x_BLNK.dtype)
