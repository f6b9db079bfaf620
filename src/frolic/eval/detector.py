"""Where the things are: a small fully convolutional network that marks centres and measures boxes, whatever the thing
is (Zhou et al. 2019, "Objects as Points"), and names the landscape behind them.

B batch, G side of the grid of cells, K boxes. Boxes are left, top, right, bottom as shares of the picture's sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frolic.eval.classifier import Residual
from frolic.eval.grounds import SCENIC
from frolic.eval.layouts import Box, overlap

SIDE, STRIDE = 96, 4
GRID = SIDE // STRIDE
THRESHOLD = 0.45
_SAME = 0.75
WIDTHS = (24, 48, 80, 112)


class DetectorNet(nn.Module):
    """[B, 3, 96, 96] in [-1, 1] -> ([B, 5, 24, 24], [B, 1 + landscapes]).

    Of each cell: the logit of a centre, the centre's place in it (x, y), and the logarithms of width and height.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = nn.Conv2d(3, a, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(a)
        self.four = Residual(a, b, 2)
        self.eight = Residual(b, c, 2)
        self.sixteen = Residual(c, d, 2)
        self.deep = Residual(d, d, 2)
        self.up = nn.ModuleList([nn.Conv2d(d, d, 1), nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1)])
        self.join = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for width in (d, c, b))
        self.join_norm = nn.ModuleList(nn.BatchNorm2d(width) for width in (d, c, b))
        self.head = nn.Conv2d(b, 5, 1)
        self.ground = nn.Linear(a + b + c + 2 * d, 1 + len(SCENIC))
        nn.init.constant_(self.head.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = F.relu(self.stem_norm(self.stem(x)))
        levels = [self.four(half)]
        for block in (self.eight, self.sixteen, self.deep):
            levels.append(block(levels[-1]))
        pooled = torch.cat([level.mean((2, 3)) for level in (half, *levels)], 1)
        y = levels.pop()
        for up, join, norm in zip(self.up, self.join, self.join_norm, strict=True):
            y = levels.pop() + F.interpolate(up(y), scale_factor=2, mode="nearest")
            y = F.relu(norm(join(y)))
        return self.head(y), self.ground(pooled)


def targets(boxes: list[list[Box]], grid: int = GRID) -> tuple[Tensor, Tensor, Tensor]:
    """What the net should say in ``grid`` x ``grid`` cells: heat [B, G, G] (1 at centres, falling off with the box's
    size), the other four numbers [B, 4, G, G], and where they count, bool [B, G, G]."""
    heat = torch.zeros(len(boxes), grid, grid)
    numbers = torch.zeros(len(boxes), 4, grid, grid)
    counts = torch.zeros(len(boxes), grid, grid, dtype=torch.bool)
    ramp = torch.arange(grid)
    for index, found in enumerate(boxes):
        for left, top, right, bottom in found:
            x, y = (left + right) / 2 * grid, (top + bottom) / 2 * grid
            column, row = (min(grid - 1, max(0, int(place))) for place in (x, y))
            wide, tall = max(0.02, right - left), max(0.02, bottom - top)
            across = -(((ramp - column) / (0.06 * grid * wide + 0.6)) ** 2) / 2
            down = -(((ramp - row) / (0.06 * grid * tall + 0.6)) ** 2) / 2
            heat[index] = torch.maximum(heat[index], (across[None, :] + down[:, None]).exp())
            counts[index, row, column] = True
            numbers[index, :, row, column] = torch.tensor([x - column, y - row, wide, tall])
    numbers[:, 2:] = numbers[:, 2:].clamp(min=0.02).log()
    return heat, numbers, counts


def loss(said: Tensor, heat: Tensor, numbers: Tensor, counts: Tensor) -> Tensor:
    """Focal loss of the centres plus the distance of place and size at them."""
    logit = said[:, 0]
    chance = logit.sigmoid()
    positive = -((1 - chance) ** 2) * F.logsigmoid(logit)
    negative = -((1 - heat) ** 4) * chance**2 * F.logsigmoid(-logit)
    centres = torch.where(counts, positive, negative).sum() / counts.sum().clamp(min=1)
    away = (said[:, 1:] - numbers).abs().sum(1)[counts].mean()
    return centres + 0.5 * away


@dataclass(frozen=True)
class Found:
    """One thing: its box and how sure the detector is, 0 to 1."""

    box: Box
    score: float


def decode(said_B5GG: Tensor, threshold: float = THRESHOLD) -> list[list[Found]]:
    """The things of each picture, surest first: local maxima of the heat above ``threshold``, without a weaker box
    that lies on a surer one of its size."""
    heat = said_B5GG[:, 0].sigmoid()
    peak = (heat == F.max_pool2d(heat[:, None], 3, 1, 1)[:, 0]) & (heat > threshold)
    pictures = []
    for index in range(len(heat)):
        rows, columns = peak[index].nonzero().unbind(1)
        scores = heat[index, rows, columns]
        dx, dy, wide, tall = said_B5GG[index, 1:, rows, columns].unbind(0)
        x, y = (columns + dx) / GRID, (rows + dy) / GRID
        wide, tall = wide.exp() / 2, tall.exp() / 2
        boxes = torch.stack([x - wide, y - tall, x + wide, y + tall], 1)
        kept: list[Found] = []
        for place in scores.argsort(descending=True).tolist():
            left, top, right, bottom = boxes[place].tolist()
            found = Found((left, top, right, bottom), float(scores[place]))
            if all(_union(found.box, other.box) < _SAME for other in kept):
                kept.append(found)
        pictures.append(kept)
    return pictures


def _union(a: Box, b: Box) -> float:
    """Intersection over union."""
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    common = overlap(a, b) * min(sizes)
    return common / max(1e-9, sum(sizes) - common)
