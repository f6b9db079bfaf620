"""Backgrounds: palette colours, plain or as gradients, and simple scenery in the sprites' soft style.

B batch, H/W sides of the picture, h/w of a part of it. Colours are in [0, 1].
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from frolic.data.compose import PALETTE
from frolic.errors import RequestError, nearest

Colour = tuple[int, int, int]


def paint(words: Sequence[str], seeds: Sequence[int], height: int, width: int) -> Tensor:
    """Backgrounds ``[B, 3, H, W]`` in [0, 1], each a function of its word (of ``PALETTE`` or ``SCENERY``) and its seed.

    White is white; another colour is plain, or a gradient that stays within what its word names.
    """
    pairs = zip(words, seeds, strict=True)
    return torch.stack([_one(word, random.Random(seed), height, width) for word, seed in pairs])


def _one(word: str, rng: random.Random, height: int, width: int) -> Tensor:
    if word in PALETTE:
        return _colour(word, rng, height, width)
    if word not in SCENERY:
        raise RequestError(f"there is no background {word!r}{nearest(word, [*PALETTE, *SCENERY])}")
    return SCENERY[word](rng, height, width).clamp_(0, 1)


def _rgb(colour: Colour) -> Tensor:
    return torch.tensor(colour, dtype=torch.float32)[:, None, None] / 255


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _gradient(stops: Sequence[tuple[float, Colour]], height: int, width: int) -> Tensor:
    """From top to bottom through ``stops``, (place in [0, 1], colour)."""
    rows = (torch.arange(height) + 0.5) / height
    out = _rgb(stops[0][1]).expand(3, height, 1).clone()
    for (start, above), (end, below) in itertools.pairwise(stops):
        share = ((rows - start) / max(end - start, 1e-6)).clamp(0, 1)[None, :, None]
        out = torch.where(rows[None, :, None] >= start, _rgb(above) + (_rgb(below) - _rgb(above)) * share, out)
    return out.expand(3, height, width).clone()


def _axes(height: int, width: int) -> tuple[Tensor, Tensor]:
    """``x`` [1, W] and ``y`` [H, 1] of the pixels' middles, over the short side."""
    short = min(height, width)
    return (torch.arange(width) + 0.5)[None] / short, (torch.arange(height) + 0.5)[:, None] / short


def _over(picture: Tensor, colour: Tensor, alpha_HW: Tensor) -> None:
    picture += (colour - picture) * alpha_HW


def _soft(distance: Tensor, width: float) -> Tensor:
    """1 inside (negative ``distance``), 0 outside, with an edge of ``width``."""
    share = (0.5 - distance / width).clamp(0, 1)
    return share * share * (3 - 2 * share)


def _colour(word: str, rng: random.Random, height: int, width: int) -> Tensor:
    base = PALETTE[word]
    style = rng.random()
    if word == "white" or style < 0.5:
        return _rgb(base).expand(3, height, width).clone()
    # Dark colours lighten little before their word is wrong, and light ones darken little.
    lighter = _mix(base, (255, 255, 255), rng.uniform(0.08, 0.16) if word == "black" else rng.uniform(0.15, 0.32))
    if style < 0.85:
        ends = (lighter, base) if rng.random() < 0.7 else (base, lighter)
        return _gradient([(0.0, ends[0]), (1.0, ends[1])], height, width)
    x, y = _axes(height, width)
    far = ((x - width / min(height, width) / 2) ** 2 + (y - height / min(height, width) / 2) ** 2).sqrt()
    share = (1 - far / 0.75).clamp(0, 1)
    return _rgb(base) + (_rgb(lighter) - _rgb(base)) * (share * share * (3 - 2 * share))


def _cloud(picture: Tensor, rng: random.Random, x: float, y: float, size: float, strength: float) -> None:
    """A heap of soft balls with a flat bottom; ``x``, ``y`` and ``size`` (half its width) over the short side."""
    height, width = picture.shape[1:]
    short = min(height, width)
    top, bottom = max(0, int((y - size) * short)), min(height, int((y + size * 0.5) * short) + 1)
    left, right = max(0, int((x - 1.3 * size) * short)), min(width, int((x + 1.3 * size) * short) + 1)
    if top >= bottom or left >= right:
        return
    across, down = _axes(height, width)
    across, down = across[:, left:right], down[top:bottom]
    puffs = [(-0.78, 0.02, 0.3), (-0.36, -0.16, 0.42), (0.14, -0.26, 0.5), (0.6, -0.04, 0.36), (0.0, 0.06, 0.4)]
    alpha = torch.zeros(bottom - top, right - left)
    light = torch.zeros(bottom - top, right - left)
    for dx, dy, radius in puffs:
        cx, cy = x + dx * size, y + (dy + rng.uniform(-0.06, 0.06)) * size
        r = radius * size * rng.uniform(0.9, 1.12)
        square = (across - cx) ** 2 + (down - cy) ** 2
        inside = _soft(square.sqrt() - r, 0.05 * size + 0.012)
        # Lit from above: a ball is whiter towards its top, and its lower half takes the sky's blue.
        shade = (0.5 - (down - cy) / (2.2 * r)).clamp(0, 1).expand_as(inside)
        light = torch.where(inside > alpha, torch.maximum(shade, light * 0.92), light)
        alpha = torch.maximum(alpha, inside)
    alpha = alpha * _soft(down - (y + 0.24 * size), 0.12 * size) * strength
    shadow, bright = _rgb((206, 226, 248)), _rgb((255, 255, 255))
    _over(picture[:, top:bottom, left:right], shadow + (bright - shadow) * light.clamp(0, 1), alpha)


def _clouds(picture: Tensor, rng: random.Random, places: Sequence[tuple[float, float]], size: float) -> None:
    """Clouds about ``places``, given over the picture's sides."""
    height, width = picture.shape[1:]
    short = min(height, width)
    for x, y in places:
        across = (x + rng.uniform(-0.07, 0.07)) * width / short
        down = (y + rng.uniform(-0.04, 0.04)) * height / short
        _cloud(picture, rng, across, down, size * rng.uniform(0.8, 1.25), rng.uniform(0.85, 1.0))


_SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((72, 156, 240), (190, 228, 252)),
    ((98, 178, 246), (214, 238, 253)),
    ((60, 140, 228), (160, 212, 248)),
)


def _sky(rng: random.Random, height: int, width: int) -> Tensor:
    above, below = rng.choice(_SKIES)
    picture = _gradient([(0.0, above), (1.0, below)], height, width)
    places = [(0.16, 0.14), (0.84, 0.24), (0.12, 0.84), (0.86, 0.8), (0.5, 0.93)]
    _clouds(picture, rng, rng.sample(places, rng.randint(3, 4)), 0.17)
    return picture


_NIGHTS: tuple[tuple[Colour, Colour], ...] = (
    ((11, 16, 52), (38, 52, 120)),
    ((16, 14, 58), (58, 46, 128)),
    ((8, 22, 54), (24, 68, 118)),
)


def _night(rng: random.Random, height: int, width: int) -> Tensor:
    above, below = rng.choice(_NIGHTS)
    picture = _gradient([(0.0, above), (1.0, below)], height, width)
    short = min(height, width)
    count = round(rng.randint(26, 40) * height * width / short**2)
    for _ in range(count):
        radius = short * rng.choice((0.005, 0.006, 0.008, 0.011))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        reach = int(radius * 3) + 2
        left, right = max(0, int(x) - reach), min(width, int(x) + reach + 1)
        top, bottom = max(0, int(y) - reach), min(height, int(y) + reach + 1)
        square = (torch.arange(left, right) + 0.5 - x)[None] ** 2 + (torch.arange(top, bottom) + 0.5 - y)[:, None] ** 2
        glow = torch.exp(-square / (2 * radius**2)) + 0.25 * torch.exp(-square / (8 * radius**2))
        colour = rng.choice(((255, 255, 255), (255, 246, 214), (214, 228, 255)))
        _over(picture[:, top:bottom, left:right], _rgb(colour), (glow * rng.uniform(0.55, 1.0)).clamp(0, 1))
    return picture


def _hill(picture: Tensor, rng: random.Random, at: float, swell: float, colours: tuple[Colour, Colour]) -> None:
    """Ground from about ``at`` of the height down, with a rolling edge."""
    height, width = picture.shape[1:]
    x, y = _axes(height, width)
    short = min(height, width)
    edge = at * height / short + swell * torch.sin(x * rng.uniform(2.4, 4.2) + rng.uniform(0, 6.28))
    depth = y - edge
    share = (depth / max(1e-3, (1 - at) * height / short)).clamp(0, 1)
    upper, lower = _rgb(colours[0]), _rgb(colours[1])
    _over(picture, upper + (lower - upper) * share, _soft(-depth, 1.5 / short))


def _grass(rng: random.Random, height: int, width: int) -> Tensor:
    above, below = rng.choice(_SKIES)
    picture = _gradient([(0.0, above), (0.6, _mix(below, (255, 255, 255), 0.3))], height, width)
    _clouds(picture, rng, rng.sample([(0.18, 0.15), (0.82, 0.2), (0.5, 0.1)], rng.randint(1, 2)), 0.15)
    horizon = rng.uniform(0.52, 0.58)
    bright = rng.choice(((140, 208, 84), (124, 200, 92), (156, 212, 88)))
    _hill(picture, rng, horizon, 0.035, (_mix(bright, (90, 180, 110), 0.5), (96, 176, 84)))
    _hill(picture, rng, horizon + 0.09, 0.025, (bright, _mix(bright, (56, 140, 60), 0.65)))
    return picture


_SEAS: tuple[tuple[Colour, Colour], ...] = (
    ((96, 188, 232), (22, 98, 184)),
    ((84, 200, 220), (20, 120, 178)),
    ((104, 180, 240), (30, 84, 176)),
)


def _sea(rng: random.Random, height: int, width: int) -> Tensor:
    above, below = rng.choice(_SKIES)
    picture = _gradient([(0.0, above), (0.5, _mix(below, (255, 255, 255), 0.45))], height, width)
    _clouds(picture, rng, rng.sample([(0.2, 0.14), (0.8, 0.18), (0.5, 0.1)], rng.randint(1, 2)), 0.14)
    horizon, waves = rng.uniform(0.46, 0.52), rng.choice(_SEAS)
    bands = 5
    x, y = _axes(height, width)
    short = min(height, width)
    for band in range(bands):
        # Nearer waves are higher, longer and farther apart, which is all the perspective there is.
        near = band / (bands - 1)
        at = (horizon + (1 - horizon) * (band / bands) ** 1.35) * height / short
        swell = 0.0 if band == 0 else 0.006 + 0.016 * near
        length = 30 - 16 * near
        phase = rng.uniform(0, 6.28)
        # |sin| has crests that are sharper than its troughs are, like water's.
        depth = y - (at - swell + 2 * swell * torch.sin(x * length / 2 + phase).abs())
        colour = _rgb(_mix(waves[0], waves[1], 0.08 + 0.8 * band / (bands - 1)))
        foam = _rgb(_mix(_mix(waves[0], waves[1], 0.6 * near), (255, 255, 255), 0.5))
        _over(picture, colour, _soft(-depth, 1.5 / short))
        if band:
            _over(picture, foam, 0.7 * torch.exp(-(((depth - 0.004) / (0.005 + 0.004 * near)).clamp(-1e3, 1e3) ** 2)))
    return picture


_ROOMS: tuple[tuple[Colour, Colour], ...] = (
    ((247, 232, 208), (196, 146, 98)),
    ((222, 232, 240), (186, 142, 104)),
    ((240, 222, 224), (176, 132, 104)),
    ((226, 238, 222), (204, 160, 112)),
)


def _room(rng: random.Random, height: int, width: int) -> Tensor:
    wall, floor = rng.choice(_ROOMS)
    edge = rng.uniform(0.62, 0.68)
    ends = ((0.0, _mix(wall, (255, 255, 255), 0.25)), (edge, _mix(wall, (120, 90, 70), 0.1)))
    picture = _gradient(ends, height, width)
    x, y = _axes(height, width)
    short = min(height, width)
    tall, wide = height / short, width / short
    _window(picture, rng, x, y, wide, tall)
    depth = y - edge * tall
    share = (depth / ((1 - edge) * tall)).clamp(0, 1)
    far, near = _rgb(_mix(floor, (90, 60, 40), 0.12)), _rgb(_mix(floor, (255, 255, 255), 0.14))
    _over(picture, far + (near - far) * share, _soft(-depth, 1.5 / short))
    # Boards run to one vanishing point behind the wall.
    spread = (x - wide / 2) / (depth + 0.5)
    seam = ((spread * 5 + 0.5) % 1 - 0.5).abs() * (depth + 0.5) / 5
    _over(picture, _rgb(_mix(floor, (70, 40, 20), 0.4)), 0.5 * _soft(seam - 0.003, 0.006) * (depth > 0))
    board = 0.045
    _over(picture, _rgb((252, 250, 246)), _soft((depth + board / 2).abs() - board / 2, 1.5 / short))
    _over(picture, _rgb((120, 90, 70)), 0.25 * torch.exp(-(((depth - 0.004) / 0.01) ** 2)) * (depth > 0))
    return picture


def _window(picture: Tensor, rng: random.Random, x: Tensor, y: Tensor, wide: float, tall: float) -> None:
    cx = wide * rng.choice((0.2, 0.5, 0.8))
    cy, half_x, half_y = 0.24 * tall, rng.uniform(0.11, 0.14), rng.uniform(0.13, 0.15)
    edge = 2 / min(picture.shape[1:])
    across, down = (x - cx).abs(), (y - cy).abs()
    frame = torch.maximum(across - half_x - 0.022, down - half_y - 0.022)
    pane = torch.maximum(across - half_x, down - half_y)
    bars = torch.minimum(across, down) - 0.008
    _over(picture, _rgb((120, 90, 70)), 0.18 * _soft(frame - 0.008, 0.04))
    _over(picture, _rgb((255, 255, 255)), _soft(frame, edge))
    share = ((y - cy) / (2 * half_y) + 0.5).clamp(0, 1)
    above, below = _rgb((126, 196, 246)), _rgb((212, 238, 253))
    _over(picture, above + (below - above) * share, _soft(torch.maximum(pane, -bars), edge))


SCENERY: dict[str, Callable[[random.Random, int, int], Tensor]] = {
    "sky": _sky,
    "night": _night,
    "grass": _grass,
    "sea": _sea,
    "room": _room,
}
"""Scenery by the word that ``Scene.ground`` uses."""

STANDING = frozenset({"grass", "room"})
"""Scenery on which things stand and cast a shadow."""
