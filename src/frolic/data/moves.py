"""How a thing moves through a clip, and what is said of it. All of it is true of what is drawn.

Places are over the picture's sides, angles in radians, times from 0 to 1 over the clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

MOVES = (
    *("left", "right", "up", "down", "fall", "bounce"),
    *("spin", "grow", "shrink", "orbit", "still"),
)
"""What a thing can do. A spin and an orbit go around once, a bounce has two hops, and a fall gets faster."""
CLOCKWISE = 0.75
"""How often what goes around goes clockwise; the other way is always said."""
TOP = -math.pi / 2
"""Where on its circle an orbit begins."""


@dataclass(frozen=True)
class Pose:
    """``x`` and ``y`` of the centre, ``side`` of the sprite, ``angle`` (clockwise)."""

    x: float
    y: float
    side: float
    angle: float = 0.0


@dataclass(frozen=True)
class Move:
    """One of ``MOVES`` about a place. ``reach``: how far it goes (or how large it gets over how small); ``way``: 1 is
    clockwise, -1 the other way around; ``phase`` is where on its circle an orbit begins."""

    kind: str
    x: float
    y: float
    side: float
    reach: float = 0.0
    way: int = 1
    phase: float = 0.0

    def at(self, time: float) -> Pose:
        return _PATHS[self.kind](self, time)


def _line(dx: float, dy: float) -> Callable[[Move, float], Pose]:
    def path(move: Move, time: float) -> Pose:
        away = move.reach * (2 * time - 1)
        return Pose(move.x + dx * away, move.y + dy * away, move.side)

    return path


def _fall(move: Move, time: float) -> Pose:
    return Pose(move.x, move.y + move.reach * (2 * time * time - 1), move.side)


def _bounce(move: Move, time: float) -> Pose:
    return Pose(move.x, move.y - move.reach * abs(math.sin(2 * math.pi * time)), move.side)


def _spin(move: Move, time: float) -> Pose:
    return Pose(move.x, move.y, move.side, move.way * 2 * math.pi * time)


def _grow(move: Move, time: float) -> Pose:
    return Pose(move.x, move.y, move.side * move.reach ** (time - 1))


def _shrink(move: Move, time: float) -> Pose:
    return Pose(move.x, move.y, move.side * move.reach**-time)


def _orbit(move: Move, time: float) -> Pose:
    turn = move.phase + move.way * 2 * math.pi * time
    return Pose(move.x + move.reach * math.cos(turn), move.y + move.reach * math.sin(turn), move.side)


def _still(move: Move, time: float) -> Pose:
    return Pose(move.x, move.y, move.side)


_PATHS: Mapping[str, Callable[[Move, float], Pose]] = {
    "left": _line(-1, 0),
    "right": _line(1, 0),
    "up": _line(0, -1),
    "down": _line(0, 1),
    "fall": _fall,
    "bounce": _bounce,
    "spin": _spin,
    "grow": _grow,
    "shrink": _shrink,
    "orbit": _orbit,
    "still": _still,
}


@dataclass(frozen=True)
class Room:
    """What of the picture a thing has to itself: its middle, width and height, over the picture's sides."""

    x: float = 0.5
    y: float = 0.5
    wide: float = 1.0
    high: float = 1.0


WHOLE = Room()


def move(kind: str, rng: Random, room: Room = WHOLE) -> Move:
    """A move for a thing that has the picture, or a ``room`` in it, to itself. A path is a sixth of the room to either
    side of its middle, which leaves the thing as large as it can be: a small model draws it in few latents.

    What goes around begins at the top, and clockwise more often than not: of ways that no caption tells apart, a model
    learns the mean, which is a blur."""
    least = min(room.wide, room.high)
    x, y = room.x + rng.uniform(-0.05, 0.05) * room.wide, room.y + rng.uniform(-0.05, 0.05) * room.high
    way = 1 if rng.random() < CLOCKWISE else -1
    if kind in ("left", "right"):
        return Move(kind, room.x, y, 0.68 * least, rng.uniform(0.15, 0.18) * room.wide)
    if kind in ("up", "down", "fall"):
        return Move(kind, x, room.y, 0.68 * least, rng.uniform(0.15, 0.18) * room.high)
    if kind == "bounce":
        low = room.y + 0.16 * room.high
        return Move(kind, x, low, 0.66 * least, rng.uniform(0.26, 0.32) * room.high)
    if kind == "spin":
        return Move(kind, x, y, rng.uniform(0.72, 0.82) * least, way=way)
    if kind in ("grow", "shrink"):
        return Move(kind, x, y, rng.uniform(0.92, 0.99) * least, rng.uniform(1.9, 2.2))
    if kind == "orbit":
        return Move(kind, room.x, room.y, 0.58 * least, rng.uniform(0.17, 0.2) * least, way, TOP)
    return Move(kind, x, y, rng.uniform(0.66, 0.9) * least)


def around(rng: Random) -> tuple[Move, Move]:
    """A thing in the middle that stays, and one that goes around it, clockwise."""
    middle = Move("still", 0.5, 0.5, rng.uniform(0.36, 0.42))
    return middle, Move("orbit", 0.5, 0.5, rng.uniform(0.24, 0.28), rng.uniform(0.33, 0.36), 1, TOP)


SAID: Mapping[str, tuple[str, ...]] = {
    "left": ("moving to the left", "moving left", "going left"),
    "right": ("moving to the right", "moving right", "going right"),
    "up": ("moving up", "going up", "rising"),
    "down": ("moving down", "going down", "sinking"),
    "fall": ("falling", "falling down"),
    "bounce": ("bouncing", "bouncing up and down", "hopping up and down"),
    "spin": ("spinning", "rotating", "spinning around"),
    "grow": ("growing", "getting bigger", "getting larger"),
    "shrink": ("shrinking", "getting smaller"),
    "orbit": ("moving in a circle", "going around in a circle", "circling"),
    "still": ("standing still", "not moving", "holding still"),
}
"""What is said of each of ``MOVES``."""


AROUND = ("going around", "orbiting", "circling", "moving around")
"""What is said of a thing that goes around another."""


def said(move: Move, rng: Random) -> str:
    """One phrase for a move. Of what goes around, sometimes that it is clockwise, and always that it is not."""
    if move.kind in ("spin", "orbit") and (move.way < 0 or rng.random() < 0.2):
        return f"{SAID[move.kind][0]} {'clockwise' if move.way > 0 else 'counterclockwise'}"
    return rng.choice(SAID[move.kind])
