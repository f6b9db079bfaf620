"""Colour words of what is in a picture, by measuring: the ground's from its border, a thing's from the pixels in its
box that are not the ground's. Distances are taken in Oklab (B. Ottosson, 2020), where they follow the eye.

P pixels, W words with several shades each.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from frolic.data.compose import PALETTE

_WHITER = (0.0, 0.15, 0.3)
_RIM = 0.05
_UNLIKE = 0.09
_COLOURED = 0.055
_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def oklab(rgb_P3: Tensor) -> Tensor:
    """[P, 3] in [0, 1] to lightness and two axes of colour."""
    rgb = rgb_P3.clamp(0, 1)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return (linear @ torch.tensor(_TO_CONES).T).clamp(min=0) ** (1 / 3) @ torch.tensor(_TO_LAB).T


@cache
def _shades() -> tuple[Tensor, tuple[str, ...]]:
    """Each word's colour and paler ones of it, and the words; black gets no paler than a dark gray, white stays."""
    colours, words = [], []
    for word, rgb in PALETTE.items():
        for share in _WHITER:
            if (word == "white" and share) or (word in ("black", "gray") and share > 0.15):
                continue
            colours.append([value + (255 - value) * share for value in rgb])
            words.append(word)
    return oklab(torch.tensor(colours) / 255), tuple(words)


def _vote(lab_P3: Tensor, weight_P: Tensor, hue_first: bool) -> str:
    """The word that most pixels are nearest to. ``hue_first`` makes less of lightness, which shading changes."""
    shades, words = _shades()
    scale = torch.tensor([0.5 if hue_first else 1.0, 1.0, 1.0])
    nearest = torch.cdist(lab_P3 * scale, shades * scale).argmin(1)
    counts = torch.zeros(len(words)).index_add_(0, nearest, weight_P)
    total: dict[str, float] = {}
    for word, count in zip(words, counts.tolist(), strict=True):
        total[word] = total.get(word, 0.0) + count
    return max(total, key=lambda word: total[word])


def _rim(pixels_3HW: Tensor) -> Tensor:
    """The border's pixels, [P, 3] in [0, 1]."""
    _, height, width = pixels_3HW.shape
    wide = max(1, round(min(height, width) * _RIM))
    parts = [
        pixels_3HW[:, :wide],
        pixels_3HW[:, -wide:],
        pixels_3HW[:, wide:-wide, :wide],
        pixels_3HW[:, wide:-wide, -wide:],
    ]
    return (torch.cat([part.flatten(1) for part in parts], 1).T + 1) / 2


def ground_colour(pixels_3HW: Tensor) -> str:
    """The word of ``PALETTE`` that most of the border of a picture in [-1, 1] is nearest to."""
    rim = oklab(_rim(pixels_3HW))
    return _vote(rim, torch.ones(len(rim)), hue_first=False)


def thing_colour(pixels_3HW: Tensor, box: tuple[float, float, float, float]) -> str:
    """The word of ``PALETTE`` for the thing in ``box`` (shares of the sides) of a picture in [-1, 1].

    Coloured pixels decide where there are enough of them; a thing with few is black, gray or white.
    """
    _, height, width = pixels_3HW.shape
    left, top = max(0, int(box[0] * width)), max(0, int(box[1] * height))
    right, bottom = max(left + 1, round(box[2] * width)), max(top + 1, round(box[3] * height))
    inside = oklab((pixels_3HW[:, top:bottom, left:right].flatten(1).T + 1) / 2)
    ground = oklab(_rim(pixels_3HW)).median(0).values
    thing = inside[(inside - ground).norm(dim=1) > _UNLIKE]
    if len(thing) < 0.05 * len(inside):
        thing = inside
    chroma = thing[:, 1:].norm(dim=1)
    coloured = chroma > _COLOURED
    if coloured.float().mean() > 0.35:
        return _vote(thing[coloured], chroma[coloured], hue_first=True)
    return _vote(thing, torch.ones(len(thing)), hue_first=False)
