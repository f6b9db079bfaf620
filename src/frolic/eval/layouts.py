"""Several things in one picture: where they are, how they are rendered, and the boxes that a detector must find.

B batch, N cut-outs, S side of the picture. Places and boxes are shares of the picture's side.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from frolic.eval.dice import Dice
from frolic.eval.recolour import COLOURS, dominant_hue, recolour
from frolic.eval.renders import over, premultiplied

MOST = 5
_TRIES = 12
_SPANS = ((0.4, 0.95), (0.28, 0.64), (0.24, 0.54), (0.2, 0.5), (0.2, 0.4))
"""How large one of so many things is."""


@dataclass(frozen=True)
class Put:
    """A cut-out's row, its centre, its side over the picture's, whether it is mirrored, and its colour (a place in
    ``COLOURS``, or -1 for its own)."""

    row: int
    x: float
    y: float
    scale: float
    mirror: bool = False
    colour: int = -1


class Cuts:
    """The pack's cut-outs: uint8 [N, 4, H, W], kept at smaller sizes too, with each one's extent and main hue.

    ``small`` is the side of the largest copies that are kept as floats; larger ones are made when they are asked for.
    """

    def __init__(self, rgba_N4HW: Tensor, small: int = 112) -> None:
        self.rgba = rgba_N4HW
        self.levels = [level for level in (small // 2, small) if level < rgba_N4HW.shape[-1]]
        self._kept = {level: _half(rgba_N4HW, level) for level in self.levels}
        lowest = self._kept[self.levels[0]] if self.levels else _half(rgba_N4HW, small // 2)
        self.hue = torch.cat([dominant_hue(part.float()) for part in lowest.split(256)])
        self.extent = _extents(rgba_N4HW)

    def at(self, rows: Tensor, side: float) -> Tensor:
        """Premultiplied float cut-outs, of the smallest kept size that is not below ``side``."""
        for level in self.levels:
            if level >= side * 0.9:
                return self._kept[level][rows].float()
        return premultiplied(self.rgba[rows], self.rgba.shape[-1])

    def box(self, put: Put) -> tuple[float, float, float, float]:
        """What the thing covers: left, top, right, bottom."""
        left, top, right, bottom = self.extent[put.row]
        if put.mirror:
            left, right = 1 - right, 1 - left
        x, y, scale = put.x, put.y, put.scale
        return (
            x + (left - 0.5) * scale,
            y + (top - 0.5) * scale,
            x + (right - 0.5) * scale,
            y + (bottom - 0.5) * scale,
        )


def _half(rgba: Tensor, side: int) -> Tensor:
    return torch.cat([premultiplied(part, side).half() for part in rgba.split(64)])


def _extents(rgba: Tensor) -> list[list[float]]:
    """Of each cut-out the left, top, right and bottom of what is not transparent."""
    side = rgba.shape[-1]
    seen = rgba[:, 3] > 24
    columns, rows = seen.any(1).float(), seen.any(2).float()
    places = torch.stack(
        [columns.argmax(1), rows.argmax(1), side - columns.flip(1).argmax(1), side - rows.flip(1).argmax(1)], 1
    )
    return (places / side).tolist()


def compose(
    cuts: Cuts, pictures: Sequence[Sequence[Put]], under_B3SS: Tensor, dice: Dice, clean: bool = False
) -> Tensor:
    """Things over grounds [B, 3, S, S] in [0, 1], back to front; the same range, before ``degrade``. ``clean`` leaves
    jitter and shadows away."""
    x, side = under_B3SS.clone(), under_B3SS.shape[-1]
    bounds = [0.0, *[level / 0.9 for level in cuts.levels], float("inf")]
    for layer in range(max(map(len, pictures), default=0)):
        todo = [(index, puts[layer]) for index, puts in enumerate(pictures) if len(puts) > layer]
        for low, high in itertools.pairwise(bounds):
            part = [(index, put) for index, put in todo if low < put.scale * side <= high]
            if part:
                rows = torch.tensor([index for index, _ in part])
                placed = _placed(cuts, [put for _, put in part], side, dice)
                x[rows] = over(placed, x[rows], None if clean else dice)
    return x


def _placed(cuts: Cuts, puts: list[Put], side: int, dice: Dice) -> Tensor:
    rows = torch.tensor([put.row for put in puts])
    cut = cuts.at(rows, max(put.scale for put in puts) * side)
    dyed = torch.tensor([index for index, put in enumerate(puts) if put.colour >= 0], dtype=torch.long)
    if len(dyed):
        colours = torch.tensor([put.colour for put in puts])[dyed]
        cut[dyed] = recolour(cut[dyed], cuts.hue[rows[dyed]], colours, dice)
    theta = torch.zeros(len(puts), 2, 3)
    scale = torch.tensor([put.scale for put in puts])
    flip = torch.tensor([-1.0 if put.mirror else 1.0 for put in puts])
    theta[:, 0, 0], theta[:, 1, 1] = flip / scale, 1 / scale
    theta[:, 0, 2] = -flip * (2 * torch.tensor([put.x for put in puts]) - 1) / scale
    theta[:, 1, 2] = -(2 * torch.tensor([put.y for put in puts]) - 1) / scale
    grid = F.affine_grid(theta, [len(puts), 4, side, side], align_corners=False)
    return F.grid_sample(cut, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def scatter(cuts: Cuts, count: int, rows: Tensor, dyeable: Tensor, dice: Dice) -> list[list[Put]]:
    """``count`` pictures with one to five of the cut-outs ``rows`` each: often several of one kind and size, many in a
    grid, now and then one over another. ``dyeable`` [N] says which may take another colour."""
    numbers = dice.uniform(count, MOST, 3 + 2 * _TRIES).tolist()
    kinds = rows[torch.randint(len(rows), (count, MOST), generator=dice.generator)].tolist()
    chances = torch.rand(count, MOST + 5, generator=dice.generator).tolist()
    dyed = torch.randint(len(COLOURS), (count, MOST), generator=dice.generator).tolist()
    mask = dyeable.tolist()
    pictures = []
    for number, kind, chance, colour in zip(numbers, kinds, chances, dyed, strict=True):
        many = 1 + sum(chance[0] >= edge for edge in (0.25, 0.6, 0.77, 0.92))
        if many > 1 and chance[-1] < 0.4:
            wanted = [kind[0] if chance[1] < 0.6 else row for row in kind[:many]]
            dyes = [colour[i] if chance[4 + i] < 0.3 and mask[row] else -1 for i, row in enumerate(wanted)]
            pictures.append(grid(wanted, dyes, dice))
            continue
        same, even, lapping = chance[1] < 0.4, chance[2] < 0.5, 0.45 if chance[3] < 0.25 else 0.1
        low, high = _SPANS[many - 1]
        puts: list[Put] = []
        for index in range(many):
            row = kind[0] if same else kind[index]
            first = number[0 if even else index]
            scale = low + (high - low) * first[0]
            dye = colour[index] if chance[4 + index] < 0.3 and mask[row] else -1
            mirror = number[index][1] < 0.5
            for trial in range(_TRIES):
                x, y = (_within(scale, number[index][3 + 2 * trial + axis]) for axis in (0, 1))
                put = Put(row, x, y, scale, mirror, dye)
                if all(overlap(cuts.box(put), cuts.box(other)) < lapping for other in puts):
                    puts.append(put)
                    break
        pictures.append(puts)
    return pictures


def grid(rows: Sequence[int], colours: Sequence[int], dice: Dice) -> list[Put]:
    """Things of about one size side by side, in as many cells as they need; of more cells some stay empty."""
    count = len(rows)
    columns = 1 + int(torch.randint(min(count, 3), (1,), generator=dice.generator))
    lines = -(-count // columns)
    number = dice.free(count + 1, 4).tolist()
    cells = torch.randperm(columns * lines, generator=dice.generator)[:count].tolist()
    wide, tall = 1 / columns, 1 / lines
    common = min(wide, tall) * (0.7 + 0.35 * number[-1][0])
    puts = []
    for row, colour, cell, (size, x, y, mirror) in zip(rows, colours, cells, number, strict=False):
        scale = common * (0.92 + 0.08 * size)
        slack = [max(0.02, (side - scale) / 2) for side in (wide, tall)]
        across = (cell % columns + 0.5) * wide + (2 * x - 1) * min(slack[0], 0.12)
        down = (cell // columns + 0.5) * tall + (2 * y - 1) * min(slack[1], 0.12)
        puts.append(Put(row, across, down, scale, mirror < 0.5, colour))
    return puts


def _within(scale: float, share: float) -> float:
    """A centre such that the thing is inside the picture, or little of it outside."""
    room = max(0.04, 0.5 - 0.47 * scale)
    return 0.5 + (2 * share - 1) * room


Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box) -> float:
    """The common area as a share of the smaller box's."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    tall = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or tall <= 0:
        return 0.0
    return wide * tall / max(1e-9, min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])))
