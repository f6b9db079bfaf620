"""The judge's own renderings: cut-outs on a ground, with jitter; nothing of it is used to train the model.

B batch, N cut-outs, H/W side of a cut-out; a cut-out is RGBA, premultiplied where it is float.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from frolic.eval.dice import Dice
from frolic.eval.grounds import ground


def premultiplied(rgba_N4HW: Tensor, side: int) -> Tensor:
    """Cut-outs uint8 [N, 4, H, W] -> float [N, 4, h, h] times their alpha, averaged down to just above ``side``."""
    parts = []
    for part in rgba_N4HW.split(64):  # floats of all cut-outs at full size would take a gigabyte
        cut = part.float() / 255
        cut = torch.cat([cut[:, :3] * cut[:, 3:], cut[:, 3:]], 1)
        parts.append(F.avg_pool2d(cut, max(1, cut.shape[-1] // side)))
    return torch.cat(parts)


def render(cut_B4HW: Tensor, dice: Dice, side: int, scenic: float = 0.0) -> Tensor:
    """``premultiplied`` cut-outs [B, 4, H, W] -> pictures [B, 3, side, side] in [-1, 1], each with one large thing."""
    under, _ = ground(len(cut_B4HW), side, dice, scenic)
    x = over(_place(cut_B4HW, dice, side), under, dice)
    return degrade(x, dice).clamp(0, 1) * 2 - 1


def crowd(cut_B4HW: Tensor, dice: Dice, side: int, scenic: float, neighbours: float, strength: float = 1.0) -> Tensor:
    """As ``render``, where a share ``neighbours`` of the pictures has another of the batch's cut-outs reach in, from
    behind or over the thing: what a crop around one of several things looks like. ``strength`` is ``degrade``'s."""
    count = len(cut_B4HW)
    x, _ = ground(count, side, dice, scenic)
    place = torch.rand(count, generator=dice.generator)
    behind = (place < 0.6 * neighbours).nonzero()[:, 0]
    above = ((place >= 0.6 * neighbours) & (place < neighbours)).nonzero()[:, 0]
    if len(behind):
        x[behind] = over(_aside(_others(cut_B4HW, len(behind), dice), dice, side, 0.75), x[behind], dice)
    x = over(_place(cut_B4HW, dice, side), x, dice)
    if len(above):
        x[above] = over(_aside(_others(cut_B4HW, len(above), dice), dice, side, 1.0), x[above], dice)
    return degrade(x, dice, strength).clamp(0, 1) * 2 - 1


def _others(cut: Tensor, count: int, dice: Dice) -> Tensor:
    return cut[torch.randint(len(cut), (count,), generator=dice.generator)]


def over(cut: Tensor, under: Tensor, dice: Dice | None) -> Tensor:
    """Placed cut-outs [B, 4, side, side] over pictures in [0, 1], each with jitter and a shadow; as they are without
    ``dice``."""
    side = cut.shape[-1]
    alpha = cut[:, 3:]
    if dice is None:
        return cut[:, :3] + (1 - alpha) * under
    colour = jitter(cut[:, :3], alpha, dice)
    shadow = F.avg_pool2d(alpha.roll(max(1, side // 24), 2), 7, 1, 3)
    shadow = shadow * dice.uniform(len(cut), high=0.35)[:, None, None, None]
    return colour + (1 - alpha) * under * (1 - shadow)


def _place(cut: Tensor, dice: Dice, side: int) -> Tensor:
    """Scale, turn, shift and mirror: one affine resampling of premultiplied pixels."""
    count = len(cut)
    scale = dice.uniform(count, low=0.6, high=1.06)
    room = (1 - scale * 0.92).clamp(min=0.06)
    shift = dice.uniform(count, 2, low=-1.0, high=1.0) * room[:, None]
    return _resample(cut, scale, shift, dice, side)


def _aside(cut: Tensor, dice: Dice, side: int, near: float) -> Tensor:
    """Cut-outs beside the middle: their centres ``near`` to 1.5 half-sides away in any direction."""
    count = len(cut)
    scale = dice.uniform(count, low=0.5, high=1.1)
    angle = dice.uniform(count, high=2 * math.pi)
    away = dice.uniform(count, low=near, high=1.5) * (0.6 + 0.4 * scale)
    shift = away[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return _resample(cut, scale, shift, dice, side)


def _resample(cut: Tensor, scale: Tensor, shift: Tensor, dice: Dice, side: int) -> Tensor:
    """``scale`` [B] is the cut-out's side over the picture's, ``shift`` [B, 2] its centre's place in half-sides."""
    count = len(cut)
    angle = dice.uniform(count, low=-0.22, high=0.22)
    mirror = 1 - 2 * dice.chance(count, 0.5).float()
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    theta = torch.stack([torch.stack([cos * mirror, -sin * mirror], 1), torch.stack([sin, cos], 1)], 1)
    theta = torch.cat([theta, -theta @ shift[:, :, None]], 2)
    grid = F.affine_grid(theta, [count, 4, side, side], align_corners=False)
    bend = dice.uniform(count, high=0.05)[:, None, None, None] * dice.normal(count, 2, 5, 5)
    grid = grid + _smooth(bend, side).permute(0, 2, 3, 1)
    return F.grid_sample(cut, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def jitter(colour: Tensor, alpha: Tensor, dice: Dice) -> Tensor:
    """Small changes of brightness, contrast, saturation and tint; hue stays, since concepts differ by colour alone."""
    count = len(colour)
    gain = dice.uniform(count, low=0.8, high=1.2)[:, None, None, None]
    tint = dice.uniform(count, 3, low=0.93, high=1.07)[:, :, None, None]
    grey = colour.mean(1, keepdim=True)
    saturation = dice.uniform(count, low=0.7, high=1.25)[:, None, None, None]
    lift = dice.uniform(count, low=-0.08, high=0.08)[:, None, None, None]
    return ((grey + (colour - grey) * saturation) * gain * tint + lift * alpha).clamp(min=0).minimum(alpha)


def degrade(x: Tensor, dice: Dice, strength: float = 1.0) -> Tensor:
    """Lose detail in half of the pictures (a random lower resolution), then add blotches and grain.

    A judge that has seen clean renders only takes any texture for content and calls a good picture by a wrong name.
    """
    count, side = len(x), x.shape[-1]
    low = round(side * float(dice.uniform(1, low=1 - 0.7 * strength, high=0.95)))
    rows = dice.chance(count, 0.5).nonzero()[:, 0]
    soft = F.interpolate(x[rows], (low, low), mode="bilinear", antialias=True, align_corners=False)
    x[rows] = F.interpolate(soft, (side, side), mode="bilinear", align_corners=False)
    cells = int(dice.uniform(1, low=5, high=34))
    blotches = _smooth(dice.normal(count, 3, cells, cells), side)
    x = x + blotches * (dice.uniform(count) ** 2 * 0.1 * strength)[:, None, None, None]
    return x + dice.normal(*x.shape) * dice.uniform(count, high=0.04 * strength)[:, None, None, None]


def _smooth(coarse: Tensor, side: int) -> Tensor:
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
