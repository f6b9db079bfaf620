"""Where the things of a scene go: sides and centres over the picture's short side.

A frame of aspect a is ``max(1, a)`` wide and ``max(1, 1 / a)`` high. A thing is the square of its sprite, so that
squares that do not overlap show things that do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Frame:
    wide: float
    high: float

    @classmethod
    def of(cls, aspect: float) -> Frame:
        """``aspect``: width over height."""
        return cls(max(1.0, aspect), max(1.0, 1 / aspect))


@dataclass(frozen=True)
class Spot:
    """A square with its centre at ``x`` and ``y``."""

    side: float
    x: float
    y: float


FLOOR = 0.9
"""How far down things stand that stand on something, over the frame's height."""
STEP = 1 / 8
"""Several things have their centres at multiples of this, or of half of it, and one size for each layout. In a square
picture of 256 pixels it is one latent of the f32 autoencoder: a thing among others is then the same few latents
wherever it stands. With any place and size, a small model draws single things well and pairs not at all after 250,000
pictures."""
_FILL = 0.94
"""How much of its cell a thing takes."""


def alone(rng: Random, frame: Frame, low: float = 0.84, high: float = 0.94, shift: float = 0.03) -> Spot:
    """One thing in the middle, within ``shift`` of it."""
    x, y = (rng.uniform(-shift, shift) for _ in range(2))
    return Spot(rng.uniform(low, high), frame.wide / 2 + x, frame.high / 2 + y)


def standing(rng: Random, frame: Frame, low: float, high: float, floor: float = FLOOR) -> Spot:
    """One thing whose foot is near ``floor``."""
    side = rng.uniform(low, high)
    x = frame.wide / 2 + rng.uniform(-0.08, 0.08)
    return Spot(side, x, floor * frame.high + rng.uniform(-0.02, 0.02) - side / 2)


def grid(frame: Frame, columns: int, rows: int, floor: float | None = None) -> list[Spot]:
    """A thing in each cell, row by row; all of one size. With ``floor`` they stand near there."""
    cell_x, cell_y = frame.wide / columns, frame.high / rows
    side = min(cell_x, cell_y, 0.85) * _FILL
    spots = []
    for place in range(columns * rows):
        column, row = place % columns, place // columns
        y = (row + 0.5) * cell_y if floor is None else _snapped(floor * frame.high - side / 2)
        spots.append(Spot(side, (column + 0.5) * cell_x, y))
    return spots


def _snapped(place: float) -> float:
    return round(place / STEP) * STEP


def _aside(rng: Random, room: float) -> float:
    """A step to either side or none, where there is ``room`` for it."""
    return rng.choice((-STEP, 0.0, STEP)) if room >= STEP else 0.0


def two(rng: Random, frame: Frame) -> list[Spot]:
    """Two things in a row, in a tall frame one above the other, and sometimes across the corners of a square one."""
    if frame.high > 1.25:
        return grid(frame, 1, 2)
    if frame.wide > 1.25 or rng.random() < 0.75:
        return grid(frame, 2, 1)
    cells = grid(frame, 2, 2)
    return [cells[0], cells[3]] if rng.random() < 0.5 else [cells[2], cells[1]]


def three(rng: Random, frame: Frame) -> list[Spot]:
    """Three in a row where there is room for it, or two over one, or one over two."""
    if frame.wide > 1.25:
        return grid(frame, 3, 1)
    if frame.high > 1.25:
        return grid(frame, 1, 3)
    spots = grid(frame, 2, 2)
    alone_at = rng.choice((0, 2))
    top = spots[alone_at]
    middle = Spot(top.side, frame.wide / 2 + _aside(rng, STEP), top.y)
    return [middle, *spots[2:]] if alone_at == 0 else [*spots[:2], middle]


def several(rng: Random, frame: Frame, count: int) -> list[Spot]:
    """One to four of the same."""
    if count == 1:
        return [alone(rng, frame, 0.6, 0.92, 0.04)]
    if count == 2:
        return two(rng, frame)
    if count == 3:
        return three(rng, frame)
    return grid(frame, 2, 2)


def side_by_side(rng: Random, frame: Frame, floor: float | None = None) -> list[Spot]:
    """Left, then right, at one height."""
    spots = grid(frame, 2, 1, floor)
    if floor is not None:
        return spots
    down = _aside(rng, (frame.high - spots[0].side) / 2)
    return [Spot(spot.side, spot.x, spot.y + down) for spot in spots]


def stacked(rng: Random, frame: Frame) -> list[Spot]:
    """Upper, then lower, at one place from left to right."""
    spots = grid(frame, 1, 2)
    right = _aside(rng, (frame.wide - spots[0].side) / 2)
    return [Spot(spot.side, spot.x + right, spot.y) for spot in spots]


def in_front(frame: Frame) -> list[Spot]:
    """What is behind, then what is in front of it: lower, to the right and drawn over it, so that most of both shows.

    Their squares share a corner as wide as it is high: sprites have margins, and where the corner was flatter, the
    nearer thing covered hardly any of the other's box in a third of the pictures (``frolic.eval.relations``). Which
    side it is on is never said, so it is always the same: what is left open is more to learn.
    """
    x, y = frame.wide / 2, frame.high / 2
    return [Spot(0.6, x - STEP, y - STEP), Spot(0.5 * _FILL, x + 1.5 * STEP, y + 1.5 * STEP)]


def big_and_small(rng: Random, frame: Frame, floor: float | None = None) -> list[Spot]:
    """The big one, then the small one, in a row with their feet at about one height; either may be on the left."""
    big = rng.uniform(0.58, 0.64) * min(1.3, frame.wide)
    small = rng.uniform(0.26, 0.32)
    gap = min(0.08, (frame.wide - big - small) / 3)
    start = (frame.wide - big - small - gap) / 2
    foot = frame.high / 2 + big / 2 + rng.uniform(-0.06, 0.06) if floor is None else floor * frame.high
    left = rng.random() < 0.5
    big_x = start + big / 2 if left else frame.wide - start - big / 2
    small_x = frame.wide - start - small / 2 if left else start + small / 2
    return [Spot(big, big_x, foot - big / 2), Spot(small, small_x, foot - small / 2 - rng.uniform(0.0, 0.05))]
