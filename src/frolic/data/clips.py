"""Composed clips as they are needed: no two steps see the same one.

B batch, N sprites, T frames, P side of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from frolic.data.motion import MIX, Loops, clips, render_clip
from frolic.data.scenes import Cast


@dataclass(frozen=True)
class ComposedClips:
    """``{"pixels": [B, 3, T, P, P] in [-1, 1]}``: clips in the shares of ``mix``. ``animated`` are the cut-outs that
    ``loops`` are of."""

    sprites: Tensor
    cast: Cast
    side: int
    frames: int
    loops: Loops | None = None
    animated: Tensor | None = None
    mix: Mapping[str, float] = field(default_factory=lambda: MIX)

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"pixels": self.pictures(size, generator)}

    def pictures(self, size: int, generator: torch.Generator) -> Tensor:
        """``[size, 3, T, P, P]`` in [-1, 1]."""
        seed = int(torch.randint(2**62, (), generator=generator))
        shown = clips(self.cast, size, seed, self.mix, loops=self.loops)
        made = [render_clip(self.sprites, clip, self.side, self.side, self.frames, self.animated) for clip in shown]
        return torch.stack(made).float() / 127.5 - 1
