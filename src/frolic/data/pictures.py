"""Composed pictures as they are needed: no two steps see the same one.

B batch, N sprites, P side of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from frolic.data import scenes
from frolic.data.compose import render, scatter


@dataclass(frozen=True)
class ComposedPictures:
    """``{"pixels": [B, 3, P, P] in [-1, 1]}``: scenes in the shares of ``mix``, and a share of ``scattered`` sprites of
    any style on any colour, which no caption has to be true of."""

    sprites: Tensor
    cast: scenes.Cast
    side: int
    mix: Mapping[str, float]
    scattered: float = 0.3

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"pixels": self.pictures(size, generator)}

    def pictures(self, size: int, generator: torch.Generator) -> Tensor:
        """``[size, 3, P, P]`` in [-1, 1]."""
        loose = round(size * self.scattered)
        seed = int(torch.randint(2**62, (), generator=generator))
        layout = scatter(loose, len(self.sprites), generator)
        parts = []
        if loose < size:
            shown = scenes.scenes(self.cast, size - loose, seed, self.mix)
            parts.append(scenes.render(self.sprites, shown, self.side, self.side))
        if loose:
            parts.append(render(self.sprites, layout, self.side))
        return torch.cat(parts)
