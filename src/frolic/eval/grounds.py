"""Grounds of the judge's own renderings: colours and gradients, which show nothing, and five simple landscapes.

Each landscape is painted by a rule of this file's own from a ``Dice``, so that the held-out ones differ in every
number, and none is painted as the pictures that the model is trained on are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from frolic.eval.dice import Dice
from frolic.eval.recolour import to_rgb

PLAIN, UNSURE = 0, -1
SCENIC = ("sky", "night", "grass", "sea", "room")
"""Landscapes; the label of one is its place here plus 1, that of a colour or a gradient is ``PLAIN``."""


def ground(count: int, side: int, dice: Dice, scenic: float = 0.0) -> tuple[Tensor, Tensor]:
    """Grounds [count, 3, side, side] in [0, 1] and labels, int64 [count]; a share ``scenic`` of them are landscapes."""
    x, label = background(count, side, dice)
    rows = dice.chance(count, scenic).nonzero()[:, 0]
    if len(rows):
        label[rows] = torch.randint(len(SCENIC), (len(rows),), generator=dice.generator) + 1
        x[rows] = landscapes(label[rows] - 1, side, dice)
    return x, label


def background(count: int, side: int, dice: Dice) -> tuple[Tensor, Tensor]:
    """Colours and patterns: [count, 3, side, side], each of one of the split's kinds, and ``PLAIN``, or ``UNSURE`` for
    a kind that may pass for a landscape."""
    y, x = _axes(side)
    kinds = HELD_OUT_KINDS if dice.held_out else TRAIN_KINDS
    which = torch.randint(len(kinds), (count,), generator=dice.generator)
    masks = torch.zeros(count, side, side)
    label = torch.full((count,), PLAIN)
    for index, kind in enumerate(kinds):
        rows = (which == index).nonzero()[:, 0]
        masks[rows] = kind(x, y, dice, len(rows))
        if kind in _DOUBTFUL:
            label[rows] = UNSURE
    # Half of the grounds are light, as those of icons are.
    floor = 0.6 * dice.chance(count, 0.5).float()[:, None]
    first, second = (floor + (1 - floor) * dice.uniform(count, 3) for _ in range(2))
    second = torch.lerp(first, second, dice.uniform(count)[:, None])
    return torch.lerp(first[:, :, None, None], second[:, :, None, None], masks[:, None]), label


def landscapes(kind_B: Tensor, side: int, dice: Dice) -> Tensor:
    """[B, 3, side, side] in [0, 1]: ``SCENIC[kind_B]`` each."""
    x = torch.zeros(len(kind_B), 3, side, side)
    for index, paint in enumerate(_PAINTERS):
        rows = (kind_B == index).nonzero()[:, 0]
        if len(rows):
            x[rows] = paint(len(rows), side, dice)
    return x.clamp(0, 1)


def _axes(side: int) -> tuple[Tensor, Tensor]:
    ramp = torch.linspace(0, 1, side)
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    return y, x


def _colour(count: int, dice: Dice, hue: Span, saturation: Span, value: Span) -> Tensor:
    """[count, 3, 1, 1]: colours within three spans."""
    spans = [dice.uniform(count, low=low, high=high) for low, high in (hue, saturation, value)]
    return to_rgb(torch.stack(spans, 1)[:, :, None, None])


def _rough(count: int, rows: int, columns: int, side: int, dice: Dice) -> Tensor:
    """[count, 1, side, side]: smooth noise of deviation about 1 with that many cells."""
    return F.interpolate(dice.normal(count, 1, rows, columns), (side, side), mode="bicubic", align_corners=False)


def _fade(top: Tensor, bottom: Tensor, side: int) -> Tensor:
    return torch.lerp(top, bottom, torch.linspace(0, 1, side)[:, None].expand(side, side))


def _some(count: int, dice: Dice, share: float) -> Tensor:
    return dice.chance(count, share).float()[:, None, None, None]


def _heavens(count: int, side: int, dice: Dice) -> Tensor:
    """A day's sky with no clouds."""
    top = _colour(count, dice, (0.53, 0.62), (0.2, 0.8), (0.75, 1.0))
    bottom = torch.lerp(top, torch.ones(1), dice.uniform(count, low=0.15, high=0.9)[:, None, None, None])
    return _fade(top, bottom, side)


def _sky(count: int, side: int, dice: Dice) -> Tensor:
    x = _heavens(count, side, dice)
    y, across = _axes(side)
    rough = _rough(count, 5, 3, side, dice) + 0.4 * _rough(count, 12, 8, side, dice)
    soft = ((rough - dice.uniform(count, low=0.0, high=0.9)[:, None, None, None]) * 3).clamp(0, 1)
    puffs = torch.zeros(count, 1, side, side)
    for _ in range(int(torch.randint(3, 8, (1,), generator=dice.generator))):
        centre = dice.uniform(count, 2)[:, :, None, None]
        size = dice.uniform(count, low=0.05, high=0.16)[:, None, None]
        for step in (-1, 0, 1):
            reach = ((across - centre[:, 0] - step * size) / size) ** 2 + ((y - centre[:, 1]) / size * 1.6) ** 2
            puffs = torch.maximum(puffs, ((1.15 - reach) * 6).clamp(0, 1)[:, None])
    kind = torch.randint(3, (count, 1, 1, 1), generator=dice.generator)
    clouds = torch.where(kind == 0, soft, torch.where(kind == 1, puffs, torch.zeros(1)))
    return torch.lerp(x, torch.ones(1), clouds * dice.uniform(count, low=0.5, high=1.0)[:, None, None, None])


def _night(count: int, side: int, dice: Dice) -> Tensor:
    top = _colour(count, dice, (0.58, 0.76), (0.3, 0.95), (0.05, 0.3))
    bottom = _colour(count, dice, (0.58, 0.76), (0.3, 0.9), (0.1, 0.45))
    x = _fade(top, bottom, side)
    cells = int(dice.uniform(1, low=side * 0.3, high=side * 0.7))
    points = torch.rand(count, 1, cells, cells, generator=dice.generator)
    bright = ((points - dice.uniform(count, low=0.975, high=0.995)[:, None, None, None]) * 300).clamp(0, 1)
    stars = F.interpolate(bright, (side, side), mode="bilinear", align_corners=False)
    x = torch.lerp(x, torch.tensor([1.0, 1.0, 0.88])[:, None, None], stars * (1 - 0.2 * _some(count, dice, 0.5)))
    y, across = _axes(side)
    centre = dice.uniform(count, 2, low=0.1, high=0.9)[:, :, None, None] * torch.tensor([1.0, 0.5])[:, None, None]
    size = dice.uniform(count, low=0.04, high=0.11)[:, None, None]
    disc = ((1 - ((across - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2).sqrt() / size) * 12).clamp(0, 1)[:, None]
    moon = _colour(count, dice, (0.1, 0.17), (0.0, 0.35), (0.85, 1.0))
    return torch.lerp(x, moon.expand_as(x), disc * _some(count, dice, 0.3))


def _below(count: int, side: int, dice: Dice, low: float, high: float, rise: float) -> Tensor:
    """[count, 1, side, side]: 1 below a horizon that may roll, 0 above it."""
    y, x = _axes(side)
    line = dice.uniform(count, low=low, high=high)[:, None, None]
    wave = torch.sin(
        2 * math.pi * (x * dice.uniform(count, low=0.4, high=1.5)[:, None, None] + dice.uniform(count)[:, None, None])
    )
    line = line + rise * wave * dice.uniform(count)[:, None, None]
    return ((y - line) * side / 2).clamp(0, 1)[:, None]


def _grass(count: int, side: int, dice: Dice) -> Tensor:
    far, near = (_colour(count, dice, (0.2, 0.39), (0.35, 0.85), (0.4, 0.85)) for _ in range(2))
    meadow = _fade(far, torch.lerp(far, near, 0.6), side)
    blades = _rough(count, side // 8, side // 3, side, dice)
    meadow = meadow * (1 + blades * dice.uniform(count, high=0.12)[:, None, None, None])
    above = torch.where(_some(count, dice, 0.5) > 0, _sky(count, side, dice), _heavens(count, side, dice))
    share = _below(count, side, dice, 0.3, 0.85, 0.06)
    share = torch.maximum(share, _some(count, dice, 0.2))
    return torch.lerp(above, meadow, share)


def _sea(count: int, side: int, dice: Dice) -> Tensor:
    far = _colour(count, dice, (0.48, 0.63), (0.45, 0.95), (0.45, 0.9))
    near = _colour(count, dice, (0.48, 0.64), (0.5, 0.95), (0.3, 0.85))
    water = _fade(far, torch.lerp(far, near, 0.7), side)
    y, x = _axes(side)
    bend = dice.uniform(count, low=0.0, high=0.03)[:, None, None]
    turns = dice.uniform(count, low=1.5, high=6)[:, None, None]
    depth = y + bend * torch.sin(2 * math.pi * (turns * x + dice.uniform(count)[:, None, None]))
    stripes = torch.sin(2 * math.pi * depth * dice.uniform(count, low=4, high=13)[:, None, None])
    crests = (stripes * dice.uniform(count, low=1, high=4)[:, None, None]).clamp(-1, 1)[:, None]
    crests = crests * (0.4 + 0.6 * (_rough(count, 10, 4, side, dice) > 0).float())
    water = water + crests * dice.uniform(count, low=0.02, high=0.12)[:, None, None, None]
    above = torch.where(_some(count, dice, 0.5) > 0, _sky(count, side, dice), _heavens(count, side, dice))
    share = torch.maximum(_below(count, side, dice, 0.25, 0.75, 0.01), _some(count, dice, 0.2))
    return torch.lerp(above, water, share)


def _room(count: int, side: int, dice: Dice) -> Tensor:
    wall = _colour(count, dice, (0.0, 1.0), (0.02, 0.4), (0.65, 1.0))
    wood = _colour(count, dice, (0.03, 0.12), (0.2, 0.7), (0.35, 0.85))
    other = _colour(count, dice, (0.0, 1.0), (0.0, 0.5), (0.3, 0.9))
    floor = torch.where(_some(count, dice, 0.7) > 0, wood, other)
    y, x = _axes(side)
    line = dice.uniform(count, low=0.55, high=0.85)[:, None, None, None]
    walls = _fade(wall, wall * dice.uniform(count, low=0.85, high=1.0)[:, None, None, None], side)
    left, top = dice.uniform(count, 2, low=0.05, high=0.6)[:, :, None, None].unbind(1)
    wide, tall = dice.uniform(count, 2, low=0.15, high=0.35)[:, :, None, None].unbind(1)
    across, down = (x - left) / wide, (y - top * 0.4) / tall

    def within(rim: float) -> Tensor:
        return ((across > rim) & (across < 1 - rim) & (down > rim) & (down < 1 - rim)).float()[:, None]

    pane = _colour(count, dice, (0.0, 1.0), (0.1, 0.7), (0.4, 1.0))
    frame = _colour(count, dice, (0.0, 0.2), (0.0, 0.6), (0.3, 1.0))
    seen = _some(count, dice, 0.5)
    walls = torch.lerp(torch.lerp(walls, frame, within(0.0) * seen), pane, within(0.09) * seen)
    planks = 1 - 0.1 * _some(count, dice, 0.5) * ((y * 22 % 1) < 0.12).float()
    floors = floor * planks * (0.85 + 0.15 * y)
    room = torch.where(y > line, floors, walls)
    strip = ((y > line - dice.uniform(count, low=0.0, high=0.05)[:, None, None, None]) & (y < line)).float()
    skirting = _colour(count, dice, (0.0, 1.0), (0.0, 0.3), (0.6, 1.0))
    return torch.lerp(room, skirting, strip * _some(count, dice, 0.5))


_PAINTERS = (_sky, _night, _grass, _sea, _room)
Span: TypeAlias = tuple[float, float]


Kind = Callable[[Tensor, Tensor, Dice, int], Tensor]


def _plain(x: Tensor, _y: Tensor, _dice: Dice, count: int) -> Tensor:
    return torch.zeros(count, *x.shape)


def _linear(x: Tensor, y: Tensor, dice: Dice, count: int) -> Tensor:
    angle = dice.uniform(count, high=2 * math.pi)[:, None, None]
    return (0.5 + (x - 0.5) * torch.cos(angle) + (y - 0.5) * torch.sin(angle)).clamp(0, 1)


def _radial(x: Tensor, y: Tensor, dice: Dice, count: int) -> Tensor:
    centre = dice.uniform(count, 2, low=0.2, high=0.8)[:, :, None, None]
    return (((x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2).sqrt() * 1.3).clamp(0, 1)


def _horizon(_x: Tensor, y: Tensor, dice: Dice, count: int) -> Tensor:
    return ((y - dice.uniform(count, low=0.4, high=0.85)[:, None, None]) * 20).clamp(0, 1)


def _clouds(x: Tensor, _y: Tensor, dice: Dice, count: int) -> Tensor:
    coarse = torch.rand(count, 1, 5, 5, generator=dice.generator)
    return F.interpolate(coarse, x.shape, mode="bicubic", align_corners=True)[:, 0].clamp(0, 1)


def _vignette(x: Tensor, y: Tensor, dice: Dice, count: int) -> Tensor:
    power = dice.uniform(count, low=1.0, high=3.0)[:, None, None]
    return (2 * (x - 0.5).abs().maximum((y - 0.5).abs())) ** power


def _stripes(x: Tensor, y: Tensor, dice: Dice, count: int) -> Tensor:
    angle = dice.uniform(count, high=math.pi)[:, None, None]
    period = dice.uniform(count, low=1.0, high=4.0)[:, None, None]
    return 0.5 + 0.5 * torch.sin(2 * math.pi * period * (x * torch.cos(angle) + y * torch.sin(angle)))


def _corner(x: Tensor, y: Tensor, dice: Dice, count: int) -> Tensor:
    return (x * y) ** dice.uniform(count, low=0.5, high=2.0)[:, None, None]


TRAIN_KINDS: tuple[Kind, ...] = (_plain, _linear, _radial, _horizon, _clouds)
HELD_OUT_KINDS: tuple[Kind, ...] = (_vignette, _stripes, _corner)
_DOUBTFUL = frozenset({_horizon, _clouds, _linear})
