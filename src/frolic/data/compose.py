"""Compose cut-out sprites on backgrounds, a batch at a time and from a generator alone.

B batch, N sprites, H/W side of a sprite, P side of the picture.
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
