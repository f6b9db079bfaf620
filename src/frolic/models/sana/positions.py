"""Sine-cosine positions of a grid of tokens, which the 2K and 4K models add.  L tokens, D width."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class GridPositions:
    """Positions for any grid, ``[1, L, D]``: half of the channels tell the column, the other half the row.

    A grid of ``base`` tokens a side counts ``0, 1/scale, 2/scale, ...``. Every other grid is stretched to that range on
    both axes, so the model meets at all sizes and shapes the coordinates that it was trained with.

    The last result is kept: the steps of a request share one grid. It is no part of a state dict.
    """

    def __init__(self, width: int, base: int, scale: float) -> None:
        assert width % 4 == 0 and base > 0 and scale > 0
        self.width, self.base, self.scale = width, base, scale
        self._last: tuple[object, Tensor] | None = None

    def __call__(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """For ``grid`` (rows, columns), with the dtype and device of ``like``."""
        key = (grid, like.device, like.dtype)
        last = self._last
        if last is None or last[0] != key:
            self._last = last = (key, self.compute(grid).to(like.device, like.dtype))
        return last[1]

    def compute(self, grid: tuple[int, int]) -> Tensor:
        """In float32 on the CPU, through float64: far from the origin float32 would be off by more than it can show."""
        rows, columns = grid
        by_row, by_column = self._axis(rows), self._axis(columns)
        both = (by_column.expand(rows, -1, -1), by_row[:, None].expand(-1, columns, -1))
        return torch.cat(both, dim=-1).flatten(0, 1)[None]

    def _axis(self, length: int) -> Tensor:
        """``[sin(p w_i), cos(p w_i)]`` with ``w_i`` geometric from 1 to 1/10000: ``[length, D/2]``."""
        places = torch.arange(length, dtype=torch.float32, device="cpu") / (length / self.base) / self.scale
        quarter = self.width // 4
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(quarter, dtype=torch.float64, device="cpu") / quarter)
        angles = places.double()[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1).float()
