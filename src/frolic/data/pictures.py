"""Composed pictures as they are needed: no two steps see the same one.

B batch, N sprites, P side of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from frolic.data.compose import render, scatter


@dataclass(frozen=True)
class ComposedPictures:
    """Random sprites on random backgrounds: ``{"pixels": [B, 3, P, P] in [-1, 1]}``."""

    sprites: Tensor
    side: int

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"pixels": render(self.sprites, scatter(size, len(self.sprites), generator), self.side)}
