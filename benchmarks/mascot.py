"""A creature that no training set holds, drawn by arithmetic: what ``dreambooth.py`` teaches the starter.

A violet ball with a pale belly, two feet, two white eyes and two feelers with yellow ends, shaded as the starter's own
things are. Which way it looks, leans and holds its feelers is a function of a seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

_LIGHT = np.array([-0.45, -0.65, 0.61])
_VIOLET, _DARK, _PALE, _YELLOW = (0.50, 0.26, 0.86), (0.36, 0.15, 0.66), (0.83, 0.74, 0.98), (1.0, 0.80, 0.16)
_WHITE, _BLACK = (0.98, 0.98, 1.0), (0.08, 0.06, 0.12)


@dataclass(frozen=True)
class Pose:
    """``lean`` in radians, ``gaze`` in units of an eye, ``feelers`` the angles of both from upright, ``squash`` the
    body's width over its height, ``turn`` how far the face is to a side."""

    lean: float
    gaze: tuple[float, float]
    feelers: tuple[float, float]
    squash: float
    turn: float

    @classmethod
    def of(cls, seed: int) -> Pose:
        dice = Random(f"pose {seed}")
        return cls(
            lean=dice.uniform(-0.2, 0.2),
            gaze=(dice.uniform(-0.35, 0.35), dice.uniform(-0.25, 0.35)),
            feelers=(dice.uniform(0.25, 0.75), dice.uniform(0.25, 0.75)),
            squash=dice.uniform(0.92, 1.14),
            turn=dice.uniform(-0.14, 0.14),
        )


def cutout(seed: int, side: int = 256) -> Tensor:
    """The creature in the pose of ``seed``: uint8 [4, side, side], RGBA."""
    pose, size = Pose.of(seed), 2 * side
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    cos, sin = math.cos(pose.lean), math.sin(pose.lean)
    canvas = _Canvas(x * cos + y * sin, y * cos - x * sin)
    wide, turn = 0.56 * pose.squash, pose.turn
    for way in (-1, 1):
        canvas.ball(0.26 * way, 0.74, 0.2, 0.12, _DARK)
    for way, angle in zip((-1, 1), pose.feelers, strict=True):
        end = (turn + 0.42 * way * math.sin(angle) + 0.14 * way, -0.46 - 0.42 * math.cos(angle))
        canvas.stick((turn + 0.14 * way, -0.4), end, 0.032, _DARK)
        canvas.ball(*end, 0.09, 0.09, _YELLOW)
    canvas.ball(0, 0.16, wide, 0.6, _VIOLET)
    canvas.ball(turn, 0.38, wide * 0.62, 0.3, _PALE, flat=0.7)
    for way in (-1, 1):
        middle = (turn + 0.21 * way, -0.04)
        canvas.ball(*middle, 0.17, 0.2, _WHITE, flat=0.6)
        canvas.ball(middle[0] + 0.17 * pose.gaze[0], middle[1] + 0.2 * pose.gaze[1], 0.085, 0.1, _BLACK, flat=0.9)
        canvas.ball(middle[0] + 0.17 * pose.gaze[0] - 0.03, middle[1] + 0.2 * pose.gaze[1] - 0.04, 0.028, 0.028, _WHITE)
    canvas.stick((turn - 0.08, 0.24), (turn + 0.08, 0.24), 0.022, _BLACK)
    return canvas.cutout(side)


def pictures(seeds: list[int], side: int, colours: list[tuple[float, float, float]]) -> Tensor:
    """[N, 3, side, side] in [-1, 1]: a creature of each seed on a plain ground of each colour, at changing sizes."""
    made = []
    for seed, colour in zip(seeds, colours, strict=True):
        dice = Random(f"place {seed}")
        own = round(side * dice.uniform(0.62, 0.9))
        cut = cutout(seed, own).float() / 255
        left, top = round((side - own) * dice.uniform(0.3, 0.7)), round((side - own) * dice.uniform(0.3, 0.7))
        picture = torch.tensor(colour)[:, None, None].expand(3, side, side).clone()
        under = picture[:, top : top + own, left : left + own]
        picture[:, top : top + own, left : left + own] = cut[3:] * cut[:3] + (1 - cut[3:]) * under
        made.append(picture * 2 - 1)
    return torch.stack(made)


class _Canvas:
    """Layers painted one over the other on the points (x, y)."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y
        self.colour = np.zeros((*x.shape, 3))
        self.alpha = np.zeros(x.shape)
        self.soft = 2.0 / x.shape[0]

    def ball(
        self, cx: float, cy: float, rx: float, ry: float, colour: tuple[float, float, float], flat: float = 0.0
    ) -> None:
        """An ellipsoid under the light; ``flat`` takes its shading away."""
        u, v = (self.x - cx) / rx, (self.y - cy) / ry
        radius = np.sqrt(u * u + v * v)
        inside = np.clip((1 - radius) * min(rx, ry) / self.soft + 0.5, 0, 1)
        z = np.sqrt(np.clip(1 - radius**2, 0, 1))
        facing = np.clip(u * _LIGHT[0] + v * _LIGHT[1] + z * _LIGHT[2], 0, 1)
        light = flat + (1 - flat) * (0.52 + 0.6 * facing)
        shine = (1 - flat) * 0.55 * facing**24
        self._paint(np.clip(np.array(colour) * light[..., None] + shine[..., None], 0, 1), inside)

    def stick(
        self, start: tuple[float, float], end: tuple[float, float], radius: float, colour: tuple[float, float, float]
    ) -> None:
        """A line with round ends."""
        along = np.array(end) - np.array(start)
        share = ((self.x - start[0]) * along[0] + (self.y - start[1]) * along[1]) / max(1e-9, float(along @ along))
        share = np.clip(share, 0, 1)
        away = np.hypot(self.x - start[0] - share * along[0], self.y - start[1] - share * along[1])
        inside = np.clip((radius - away) / self.soft + 0.5, 0, 1)
        self._paint(np.broadcast_to(np.array(colour), self.colour.shape), inside)

    def _paint(self, colour: np.ndarray, inside: np.ndarray) -> None:
        self.colour = colour * inside[..., None] + self.colour * (1 - inside[..., None])
        self.alpha = inside + self.alpha * (1 - inside)

    def cutout(self, side: int) -> Tensor:
        seen = self.alpha[..., None]
        rgba = (
            np.concatenate([self.colour / np.maximum(seen, 1e-6), seen], -1).reshape(side, 2, side, 2, 4).mean((1, 3))
        )
        return torch.from_numpy((rgba.clip(0, 1) * 255).round().astype(np.uint8)).permute(2, 0, 1).contiguous()
