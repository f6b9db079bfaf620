"""Random numbers of the judge's renderings.

Every random quantity is a number in [0, 1) whose range is cut in ten bands. Bands 3 and 7 are reserved for the
held-out renderings, so their scales, positions, angles, colours and jitter never occur in training, and neither do
their kinds of background.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRAIN_BANDS = (0, 1, 2, 4, 5, 6, 8, 9)
HELD_OUT_BANDS = (3, 7)


class Dice:
    """Uniform numbers from the bands of one split, and plain ones for what is not a parameter (pixel noise)."""

    def __init__(self, generator: torch.Generator, held_out: bool) -> None:
        self.generator = generator
        self.held_out = held_out
        self._bands = torch.tensor(HELD_OUT_BANDS if held_out else TRAIN_BANDS)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers in [low, high) from this split's bands of that range."""
        band = self._bands[torch.randint(len(self._bands), shape, generator=self.generator)]
        return low + (high - low) * (band + torch.rand(shape, generator=self.generator)) / 10

    def free(self, *shape: int) -> Tensor:
        """Numbers in [0, 1) of any band, for places: from two bands there are too few arrangements."""
        return torch.rand(shape, generator=self.generator)

    def chance(self, count: int, probability: float) -> Tensor:
        """bool [count]."""
        return torch.rand(count, generator=self.generator) < probability

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)
