"""What one thing is: a small convolutional classifier over all concepts of the starter's training set, with one more
head for the style that it is drawn in.

B batch.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 64
WIDTHS = (32, 64, 128, 192)
STYLES = ("3d", "flat", "noto", "clipart")
_HIDDEN = 96


class Said(NamedTuple):
    """Logits: [B, concepts], [B, styles]."""

    concept: Tensor
    style: Tensor


class Residual(nn.Module):
    """``x + conv(relu(conv(x)))`` with batch norm; the first convolution changes width, and the side by ``stride``."""

    def __init__(self, inputs: int, outputs: int, stride: int = 2) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.down_norm = nn.BatchNorm2d(outputs)
        self.conv = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down_norm(self.down(x)))
        return F.relu(x + self.norm(self.conv(x)))


class ClassifierNet(nn.Module):
    """[B, 3, 64, 64] in [-1, 1] -> ``Said``; about 1.2 M parameters for 1,500 concepts."""

    def __init__(self, concepts: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(WIDTHS[0])
        self.stages = nn.ModuleList(Residual(a, b) for a, b in itertools.pairwise(WIDTHS))
        # Means over a picture differ little from picture to picture; without this learning starts late.
        self.neck = nn.BatchNorm1d(WIDTHS[-1])
        self.concept = nn.Linear(WIDTHS[-1], concepts)
        self.style = nn.Sequential(
            nn.LayerNorm(2 * sum(WIDTHS)),
            nn.Linear(2 * sum(WIDTHS), _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, len(STYLES)),
        )

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the two heads read: the last stage's means [B, 192], and of every stage the means and the deviations,
        which tell smooth shading from flat colour, [B, 832]."""
        x = F.relu(self.stem_norm(self.stem(x)))
        parts = []
        for stage in (nn.Identity(), *self.stages):
            x = stage(x)
            deviations, means = torch.std_mean(x.flatten(2).float(), 2)
            parts += [means, deviations]
        return parts[-2], torch.cat(parts, 1)

    def forward(self, x: Tensor) -> Said:
        last, every = self.features(x)
        return Said(self.concept(self.neck(last)), self.style(every))


def shrink(x_BCHW: Tensor, side: int = SIDE) -> Tensor:
    """Pictures of any size to ``side`` x ``side`` by averaging (antialiased when the ratio is not whole)."""
    if x_BCHW.shape[-1] == x_BCHW.shape[-2] and x_BCHW.shape[-1] % side == 0:
        return F.avg_pool2d(x_BCHW, x_BCHW.shape[-1] // side)
    return F.interpolate(x_BCHW, (side, side), mode="bilinear", antialias=True, align_corners=False)
