"""Recolour sprites of one dominant hue, keeping shading, highlights and whatever has another colour.

B batch, H/W side. Colours are straight sRGB in [0, 1]; work is done in Oklab (B. Ottosson, 2020), where lightness,
chroma and hue can be moved apart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TINTS: dict[str, tuple[int, int, int]] = {
    "red": (222, 52, 52),
    "orange": (248, 140, 36),
    "yellow": (252, 212, 48),
    "green": (66, 172, 80),
    "teal": (48, 176, 170),
    "blue": (52, 112, 228),
    "purple": (138, 78, 206),
    "pink": (248, 140, 186),
    "brown": (132, 84, 52),
    "black": (58, 58, 64),
    "gray": (150, 156, 166),
    "white": (238, 238, 240),
}
"""What the middle of a recoloured thing becomes, by the word that a caption uses: black and white keep room for
shading."""

_BINS = 72
_LMS = ((0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566),
        (0.0883024619, 0.2817188376, 0.6299787005))  # fmt: skip
_LAB = ((0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099),
        (0.0259040371, 0.7827717662, -0.8086757660))  # fmt: skip


def oklab(rgb_B3HW: Tensor) -> Tensor:
    """Lightness and the two colour axes, ``[B, 3, H, W]``."""
    linear = torch.where(rgb_B3HW <= 0.04045, rgb_B3HW / 12.92, ((rgb_B3HW.clamp_min(0) + 0.055) / 1.055) ** 2.4)
    cone = torch.einsum("ij,bjhw->bihw", rgb_B3HW.new_tensor(_LMS), linear).clamp_min(0) ** (1 / 3)
    return torch.einsum("ij,bjhw->bihw", rgb_B3HW.new_tensor(_LAB), cone)


def from_oklab(lab_B3HW: Tensor) -> Tensor:
    """The inverse of :func:`oklab`, clamped to [0, 1]."""
    back = torch.linalg.inv(lab_B3HW.new_tensor(_LAB, dtype=torch.float64)).to(lab_B3HW.dtype)
    mix = torch.linalg.inv(lab_B3HW.new_tensor(_LMS, dtype=torch.float64)).to(lab_B3HW.dtype)
    linear = torch.einsum("ij,bjhw->bihw", mix, torch.einsum("ij,bjhw->bihw", back, lab_B3HW) ** 3).clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def tint(sprite_4HW: Tensor, word: str) -> Tensor:
    """``sprite`` [4, H, W] (float, straight alpha, in [0, 1]) with its dominant hue made ``word``'s (of ``TINTS``)."""
    lab = oklab(sprite_4HW[None, :3])[0]
    lightness, chroma = lab[0], lab[1:].square().sum(dim=0).sqrt()
    hue = torch.atan2(lab[2], lab[1])
    weight = chroma * sprite_4HW[3]
    middle = _dominant(hue, weight)
    away = (torch.remainder(hue - middle + math.pi, 2 * math.pi) - math.pi).abs()
    # Whole within 35 degrees and nothing from 60 on; what is nearly gray has no hue to speak of.
    share = _smooth((math.radians(60) - away) / math.radians(25)) * _smooth((chroma - 0.02) / 0.04)
    mass = (share * weight).sum().clamp_min(1e-6)
    level, depth = (lightness * share * weight).sum() / mass, (chroma * share * weight).sum() / mass
    target = oklab(sprite_4HW.new_tensor(TINTS[word])[None, :, None, None] / 255)[0, :, 0, 0]
    # Lightness moves along the two straight lines that keep black black and white white and take the middle there.
    above = 1 - (1 - lightness) * (1 - target[0]) / (1 - level).clamp_min(1e-3)
    below = lightness * target[0] / level.clamp_min(1e-3)
    moved = torch.where(lightness > level, above, below)
    relative = (chroma / depth.clamp_min(1e-3)).clamp_max(1.4)
    painted = torch.stack([moved, target[1] * relative, target[2] * relative])
    new = from_oklab((lab + (painted - lab) * share)[None])[0]
    return torch.cat([new, sprite_4HW[3:]])


def _smooth(value: Tensor) -> Tensor:
    value = value.clamp(0, 1)
    return value * value * (3 - 2 * value)


def _dominant(hue: Tensor, weight: Tensor) -> Tensor:
    """The hue about which most colour lies: the mean within 30 degrees of the fullest bin."""
    place = ((hue / (2 * math.pi) % 1) * _BINS).long().clamp(0, _BINS - 1)
    counts = torch.bincount(place.flatten(), weights=weight.flatten(), minlength=_BINS)
    peak = ((counts.roll(1) + 2 * counts + counts.roll(-1)).argmax() + 0.5) * (2 * math.pi / _BINS)
    near = torch.remainder(hue - peak + math.pi, 2 * math.pi) - math.pi
    inside = weight * (near.abs() < math.radians(30))
    return peak.to(hue.dtype) + (near * inside).sum() / inside.sum().clamp_min(1e-6)
