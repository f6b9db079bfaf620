"""The judge's own renderings: a cut-out on a background, with jitter; nothing of it is used to train the model.

Every random quantity is a number in [0, 1) whose range is cut in ten bands. Bands 3 and 7 are reserved for the
held-out renderings, so their scales, positions, angles, colours and jitter never occur in training, and neither do
their kinds of background.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
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

    def chance(self, count: int, probability: float) -> Tensor:
        """bool [count]."""
        return torch.rand(count, generator=self.generator) < probability

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


def premultiplied(rgba_N4HW: Tensor, side: int) -> Tensor:
    """Cut-outs uint8 [N, 4, H, W] -> float [N, 4, h, h] times their alpha, averaged down to just above ``side``."""
    parts = []
    for part in rgba_N4HW.split(64):  # floats of all cut-outs at full size would take a gigabyte
        cut = part.float() / 255
        cut = torch.cat([cut[:, :3] * cut[:, 3:], cut[:, 3:]], 1)
        parts.append(F.avg_pool2d(cut, max(1, cut.shape[-1] // side)))
    return torch.cat(parts)


def render(cut_B4HW: Tensor, dice: Dice, side: int) -> Tensor:
    """``premultiplied`` cut-outs [B, 4, H, W] -> pictures [B, 3, side, side] in [-1, 1]."""
    cut = _place(cut_B4HW, dice, side)
    colour, alpha = _jitter(cut[:, :3], cut[:, 3:], dice), cut[:, 3:]
    ground = background(len(cut), side, dice)
    shadow = F.avg_pool2d(alpha.roll(side // 24, 2), 7, 1, 3) * dice.uniform(len(cut), high=0.35)[:, None, None, None]
    x = colour + (1 - alpha) * ground * (1 - shadow)
    return _degrade(x, dice).clamp(0, 1) * 2 - 1


def _place(cut: Tensor, dice: Dice, side: int) -> Tensor:
    """Scale, turn, shift and mirror: one affine resampling of premultiplied pixels."""
    count = len(cut)
    scale = dice.uniform(count, low=0.55, high=1.0)
    angle = dice.uniform(count, low=-0.22, high=0.22)
    room = 1 - scale * 0.92
    shift = dice.uniform(count, 2, low=-1.0, high=1.0) * room[:, None]
    mirror = 1 - 2 * dice.chance(count, 0.5).float()
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    theta = torch.stack([torch.stack([cos * mirror, -sin * mirror], 1), torch.stack([sin, cos], 1)], 1)
    theta = torch.cat([theta, -theta @ shift[:, :, None]], 2)
    grid = F.affine_grid(theta, [count, 4, side, side], align_corners=False)
    bend = dice.uniform(count, high=0.05)[:, None, None, None] * dice.normal(count, 2, 5, 5)
    grid = grid + _smooth(bend, side).permute(0, 2, 3, 1)
    return F.grid_sample(cut, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _jitter(colour: Tensor, alpha: Tensor, dice: Dice) -> Tensor:
    """Small changes of brightness, contrast, saturation and tint; hue stays, since concepts differ by colour alone."""
    count = len(colour)
    gain = dice.uniform(count, low=0.8, high=1.2)[:, None, None, None]
    tint = dice.uniform(count, 3, low=0.93, high=1.07)[:, :, None, None]
    grey = colour.mean(1, keepdim=True)
    saturation = dice.uniform(count, low=0.7, high=1.25)[:, None, None, None]
    lift = dice.uniform(count, low=-0.08, high=0.08)[:, None, None, None]
    return ((grey + (colour - grey) * saturation) * gain * tint + lift * alpha).clamp(min=0).minimum(alpha)


def _degrade(x: Tensor, dice: Dice) -> Tensor:
    """Lose detail in half of the pictures (a random lower resolution), then add blotches and grain.

    A judge that has seen clean renders only takes any texture for content and calls a good picture by a wrong name.
    """
    count, side = len(x), x.shape[-1]
    low = round(side * float(dice.uniform(1, low=0.3, high=0.95)))
    rows = dice.chance(count, 0.5).nonzero()[:, 0]
    soft = F.interpolate(x[rows], (low, low), mode="bilinear", antialias=True, align_corners=False)
    x[rows] = F.interpolate(soft, (side, side), mode="bilinear", align_corners=False)
    cells = int(dice.uniform(1, low=5, high=34))
    blotches = _smooth(dice.normal(count, 3, cells, cells), side)
    x = x + blotches * (dice.uniform(count) ** 2 * 0.1)[:, None, None, None]
    return x + dice.normal(*x.shape) * dice.uniform(count, high=0.04)[:, None, None, None]


def _smooth(coarse: Tensor, side: int) -> Tensor:
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)


def background(count: int, side: int, dice: Dice) -> Tensor:
    """[count, 3, side, side] in [0, 1]: each picture one of the split's kinds of background."""
    ramp = torch.linspace(0, 1, side)
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    kinds = HELD_OUT_KINDS if dice.held_out else TRAIN_KINDS
    which = torch.randint(len(kinds), (count,), generator=dice.generator)
    masks = torch.zeros(count, side, side)
    for index, kind in enumerate(kinds):
        rows = (which == index).nonzero()[:, 0]
        masks[rows] = kind(x, y, dice, len(rows))
    # Half of the grounds are light, as those of icons are.
    floor = 0.6 * dice.chance(count, 0.5).float()[:, None]
    first, second = (floor + (1 - floor) * dice.uniform(count, 3) for _ in range(2))
    second = torch.lerp(first, second, dice.uniform(count)[:, None])
    return torch.lerp(first[:, :, None, None], second[:, :, None, None], masks[:, None])


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
