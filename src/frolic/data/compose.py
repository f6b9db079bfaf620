"""Compose cut-out sprites on backgrounds, a batch at a time and from a generator alone.

B batch, N sprites, H/W side of a sprite or of a picture that need not be square, P side of a square picture,
h/w of a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PALETTE: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (24, 24, 27),
    "gray": (156, 163, 175),
    "red": (220, 60, 60),
    "orange": (245, 150, 50),
    "yellow": (250, 215, 70),
    "green": (90, 180, 100),
    "teal": (70, 180, 175),
    "blue": (75, 130, 225),
    "purple": (145, 95, 205),
    "pink": (245, 160, 195),
    "brown": (145, 100, 70),
}
"""Background colours by the word a caption uses, in 8-bit RGB."""

PLAIN = "white"
"""The background that a caption does not mention."""


def palette_tensor() -> Tensor:
    """``[len(PALETTE), 3]`` in [0, 1]."""
    return torch.tensor(list(PALETTE.values()), dtype=torch.float32) / 255


@dataclass(frozen=True)
class Layout:
    """Where each sprite goes: ``sprite`` [B] is its index, ``scale`` [B] its side over the picture's, ``centre``
    [B, 2] its x and y in [0, 1]; ``top`` and ``bottom`` [B, 3] are the background's colours, in [0, 1]."""

    sprite: Tensor
    scale: Tensor
    centre: Tensor
    top: Tensor
    bottom: Tensor


def uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def place(
    sprite_B: Tensor,
    background_B3: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float],
    shift: float,
) -> Layout:
    """Sprites near the middle of plain backgrounds: side within ``scale``, centre within ``shift`` of the middle."""
    count = len(sprite_B)
    return Layout(
        sprite=sprite_B,
        scale=uniform(generator, (count,), *scale),
        centre=uniform(generator, (count, 2), 0.5 - shift, 0.5 + shift),
        top=background_B3,
        bottom=background_B3,
    )


def scatter(count: int, sprites: int, generator: torch.Generator) -> Layout:
    """Anything anywhere on any colour or gradient: what an autoencoder should see."""
    top = torch.rand(count, 3, generator=generator)
    plain = torch.rand(count, 1, generator=generator) < 0.5
    white = torch.rand(count, 1, generator=generator) < 0.25
    bottom = torch.where(plain, top, torch.rand(count, 3, generator=generator))
    return Layout(
        sprite=torch.randint(sprites, (count,), generator=generator),
        scale=uniform(generator, (count,), 0.55, 1.05),
        centre=uniform(generator, (count, 2), 0.4, 0.6),
        top=torch.where(white, torch.ones_like(top), top),
        bottom=torch.where(white, torch.ones_like(top), bottom),
    )


def background(layout: Layout, side: int) -> Tensor:
    """Vertical gradients ``[B, 3, P, P]`` in [0, 1]."""
    ramp = torch.linspace(0, 1, side)[None, None, :, None]
    top, bottom = layout.top[:, :, None, None], layout.bottom[:, :, None, None]
    return (top + (bottom - top) * ramp).expand(-1, -1, side, side)


def render(sprites_N4HW: Tensor, layout: Layout, side: int, under: Tensor | None = None) -> Tensor:
    """Pictures ``[B, 3, P, P]`` in [-1, 1].

    ``sprites`` are 8-bit RGBA with straight alpha. ``under`` [B, 3, P, P] in [0, 1] replaces the background, so that
    scenes are made by rendering one layer over another.
    """
    rgba = sprites_N4HW[layout.sprite].float() / 255
    alpha = rgba[:, 3:]
    # Interpolating straight colours would bleed what lies hidden under transparent pixels into the edge.
    premultiplied = torch.cat([rgba[:, :3] * alpha, alpha], dim=1)
    theta = torch.zeros(len(layout.sprite), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / layout.scale
    theta[:, :, 2] = (1 - 2 * layout.centre) / layout.scale[:, None]
    grid = F.affine_grid(theta, [len(theta), 4, side, side], align_corners=False)
    layer = F.grid_sample(premultiplied, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    base = background(layout, side) if under is None else under
    return (layer[:, :3] + base * (1 - layer[:, 3:])) * 2 - 1


def stamp(picture_3HW: Tensor, sprite_4HW: Tensor, side: int, left: int, top: int, shadow: float = 0.0) -> None:
    """Draw ``sprite`` (float, straight alpha, in [0, 1]) over ``picture`` (in [0, 1]), in place: ``side`` pixels wide
    with its corner at ``left`` and ``top``, any of which may lie outside.

    It is reduced with as wide a filter as its size asks for, so that small things are as smooth as large ones.
    ``shadow`` is how dark the ground gets under what the sprite shows.
    """
    alpha = sprite_4HW[3:]
    layer = torch.cat([sprite_4HW[:3] * alpha, alpha])[None]
    if side != layer.shape[-1]:
        layer = F.interpolate(layer, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    if shadow:
        _contact(picture_3HW, layer[0, 3], left, top, shadow)
    height, width = picture_3HW.shape[1:]
    y0, y1, x0, x1 = max(0, top), min(height, top + side), max(0, left), min(width, left + side)
    if y0 < y1 and x0 < x1:
        part = layer[0, :, y0 - top : y1 - top, x0 - left : x1 - left]
        under = picture_3HW[:, y0:y1, x0:x1]
        under.mul_(1 - part[3:]).add_(part[:3])


def _contact(picture_3HW: Tensor, alpha_hw: Tensor, left: int, top: int, strength: float) -> None:
    """A soft ellipse under the foot of what ``alpha`` shows."""
    filled = (alpha_hw.amax(dim=1) > 0.5).nonzero()
    if not len(filled):
        return
    first, last = int(filled[0]), int(filled[-1])
    foot = alpha_hw[max(first, last - max(2, (last - first) // 6)) : last + 1].amax(dim=0)
    columns = (foot > 0.5).nonzero()
    if not len(columns):
        return
    wide = (int(columns[-1]) - int(columns[0]) + 1) / 2
    across, down = wide * 1.12 + 2, max(2.0, min(0.3 * wide, 0.12 * len(alpha_hw)))
    x, y = left + float(columns[0]) + wide, top + last + 1 - 0.35 * down
    height, width = picture_3HW.shape[1:]
    y0, y1 = max(0, int(y - 2 * down)), min(height, int(y + 2 * down) + 1)
    x0, x1 = max(0, int(x - 2 * across)), min(width, int(x + 2 * across) + 1)
    if y0 < y1 and x0 < x1:
        rows, cols = torch.arange(y0, y1) + 0.5, torch.arange(x0, x1) + 0.5
        far = ((cols - x) / across)[None] ** 2 + ((rows - y) / down)[:, None] ** 2
        picture_3HW[:, y0:y1, x0:x1] *= 1 - strength * torch.exp(-1.5 * far * far)
