"""True clips of the video suites' prompts, on paths, grounds and with a renderer of the evaluation's own: what a
perfect model would show. How many of them pass is the ceiling of every figure that the evaluation gives.

T frames, S side of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from frolic.data.compose import PALETTE
from frolic.errors import RequestError
from frolic.eval.dice import Dice
from frolic.eval.grounds import SCENIC, background, landscapes
from frolic.eval.renders import degrade, jitter, over
from frolic.eval.video import LIVELY, Film, Moving

Loops: TypeAlias = tuple[Tensor, Mapping[str, int]]
"""Animated cut-outs, bytes [N, T, 4, H, W], and which of them a concept is, by its code."""

SIDE, FRAMES = 96, 17
SEED = 40_000
ROUGH = 0.4
"""How much of what a generated picture may suffer from is put on true frames."""


@dataclass(frozen=True)
class Path:
    """Of each frame [T]: the centre over the picture's sides, the cut-out's side, and its angle, clockwise."""

    x: Tensor
    y: Tensor
    side: Tensor
    angle: Tensor


def film(
    cut_T4HW: Tensor, move: str, seed: int, ground: str = "", side: int = SIDE, frames: int = FRAMES
) -> np.ndarray:
    """Bytes [T, S, S, 3]: a cut-out (bytes, straight alpha), or a loop of more than one picture from any of them on,
    doing ``move`` on ``ground`` (a colour, or one of ``SCENIC``; by itself it chooses white, or some other plain one),
    a function of ``seed``."""
    dice = Dice(torch.Generator().manual_seed(SEED + seed), held_out=True)
    path = PATHS[move](dice, torch.linspace(0, 1, frames))
    if len(cut_T4HW) > 1:
        begin = int(torch.randint(len(cut_T4HW), (), generator=dice.generator))
        cut_T4HW = cut_T4HW[(begin + torch.arange(frames)) % len(cut_T4HW)]
    cut = cut_T4HW.float() / 255
    cut = torch.cat([cut[:, :3] * cut[:, 3:], cut[:, 3:]], 1)
    under = _ground(ground, dice, side).expand(frames, -1, -1, -1)
    x = over(_placed(_coloured(cut, dice), path, side), under, None)
    return (degrade(x, dice, ROUGH).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def filmer(rgba_N4HW: Tensor, rows: Mapping[str, int], cases: Sequence[Moving], loops: Loops | None = None) -> Film:
    """A ``Film`` of true clips: of each case's prompt what it asks for. ``rows`` says which of the cut-outs a concept
    is, by its code; ``loops`` are needed for what moves by itself.

    Raises:
        RequestError: a case's thing is not among them.
    """
    asked = {case.prompt: case for case in cases}

    def true(case: Moving, seed: int) -> np.ndarray:
        if case.move == LIVELY:
            if loops is None or case.code not in loops[1]:
                raise RequestError(f"There are no animated cut-outs of {case.prompt!r}; run: frolic data starter-video")
            return film(loops[0][loops[1][case.code]], "still", seed)
        if case.code not in rows:
            raise RequestError(f"The training set has no picture of {case.prompt!r}; give another with --data.")
        # What is only named may stand still.
        return film(rgba_N4HW[rows[case.code]][None], case.move or "still", seed)

    return lambda prompts, seed: [true(asked[prompt], seed + number) for number, prompt in enumerate(prompts)]


def _coloured(cut_T4hw: Tensor, dice: Dice) -> Tensor:
    """With ``jitter``, alike in all frames: as one picture, with the frames side by side."""
    wide = torch.cat(list(cut_T4hw), 2)[None]
    made = torch.cat([jitter(wide[:, :3], wide[:, 3:], dice), wide[:, 3:]], 1)
    return torch.stack(made[0].chunk(len(cut_T4hw), 2))


def _ground(word: str, dice: Dice, side: int) -> Tensor:
    if word in SCENIC:
        return landscapes(torch.tensor([SCENIC.index(word)]), side, dice)
    if not word and bool(dice.chance(1, 0.25)):
        return background(1, side, dice)[0]
    base = torch.tensor(PALETTE[word or "white"])[None, :, None, None] / 255
    # A gradient that its word still names.
    paler = 0.0 if word in ("", "white", "black") else 0.25 * float(dice.uniform(1))
    ramp = torch.linspace(0, 1, side)[:, None].expand(side, side)
    return torch.lerp(base.expand(1, 3, side, side), torch.ones(1), paler * ramp)


def _placed(cut_T4hw: Tensor, path: Path, side: int) -> Tensor:
    """[T, 4, S, S]: a premultiplied cut-out, or one for each frame, at its places."""
    small = float(path.side.min()) * side
    # Sampling takes some points of it only: where it is drawn small it has to be small.
    levels = {size: _reduced(cut_T4hw, size) for size in {_level(float(each) * side, small) for each in path.side}}
    drawn = []
    for number, (x, y, scale, angle) in enumerate(zip(path.x, path.y, path.side, path.angle, strict=True)):
        cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
        theta = torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])[None]
        place = torch.stack([2 * x - 1, 2 * y - 1])[None, :, None]
        grid = F.affine_grid(torch.cat([theta, -theta @ place], 2), [1, 4, side, side], align_corners=False)
        level = levels[_level(float(scale) * side, small)]
        shown = level[number : number + 1] if len(level) > 1 else level
        drawn.append(F.grid_sample(shown, grid, mode="bicubic", padding_mode="zeros", align_corners=False))
    return torch.cat(drawn).clamp(0, 1)


def _level(size: float, small: float) -> int:
    """The size in steps of a quarter, from that of the smallest."""
    return max(2, round(small * 1.25 ** round(math.log(size / small, 1.25))))


def _reduced(cut: Tensor, size: int) -> Tensor:
    return cut if size >= cut.shape[-1] else F.interpolate(cut, (size, size), mode="area")


def _eased(dice: Dice, time: Tensor) -> Tensor:
    """Time that may begin and end slowly."""
    soft = time * time * (3 - 2 * time)
    return torch.lerp(time, soft, dice.uniform(1))


def _between(dice: Dice, low: float, high: float) -> Tensor:
    return dice.uniform(1, low=low, high=high)


def _line(across: int, down: int) -> Callable[[Dice, Tensor], Path]:
    def path(dice: Dice, time: Tensor) -> Path:
        size, far = _between(dice, 0.3, 0.48), _between(dice, 0.34, 0.56)
        away = far * (_eased(dice, time) - 0.5)
        # It goes a little astray.
        aside = _between(dice, -0.06, 0.06) + _between(dice, -0.05, 0.05) * time
        x, y = (away * across, aside) if across else (aside, away * down)
        return Path(0.5 + x, 0.5 + y, size.expand_as(time), torch.zeros_like(time))

    return path


def _fall(dice: Dice, time: Tensor) -> Path:
    size, far = _between(dice, 0.28, 0.44), _between(dice, 0.42, 0.58)
    fallen = time ** _between(dice, 1.8, 2.3)
    x = 0.5 + _between(dice, -0.15, 0.15) + _between(dice, -0.04, 0.04) * time
    return Path(x, 0.5 + far * (fallen - 0.5), size.expand_as(time), torch.zeros_like(time))


def _bounce(dice: Dice, time: Tensor) -> Path:
    size, high = _between(dice, 0.28, 0.44), _between(dice, 0.26, 0.42)
    hops = 2 + int(dice.chance(1, 0.4))
    part = (time * hops) % 1
    y = 0.7 - high * 4 * part * (1 - part)
    x = 0.5 + _between(dice, -0.1, 0.1) + _between(dice, -0.06, 0.06) * time
    return Path(x, y, size.expand_as(time), torch.zeros_like(time))


def _way(dice: Dice) -> float:
    return 1.0 if bool(dice.chance(1, 0.5)) else -1.0


def _spin(dice: Dice, time: Tensor) -> Path:
    turns = _way(dice) * _between(dice, 0.85, 1.3)
    x, y = (0.5 + _between(dice, -0.06, 0.06) for _ in range(2))
    size = _between(dice, 0.48, 0.68)
    return Path(x.expand_as(time), y.expand_as(time), size.expand_as(time), turns * 2 * math.pi * _eased(dice, time))


def _sized(sign: int) -> Callable[[Dice, Tensor], Path]:
    def path(dice: Dice, time: Tensor) -> Path:
        most, ratio = _between(dice, 0.7, 0.95), _between(dice, 1.9, 3.0)
        share = _eased(dice, time if sign > 0 else 1 - time)
        x, y = (0.5 + _between(dice, -0.05, 0.05) for _ in range(2))
        size = most / ratio + (most - most / ratio) * share
        return Path(x.expand_as(time), y.expand_as(time), size, torch.zeros_like(time))

    return path


def _orbit(dice: Dice, time: Tensor) -> Path:
    begun, turns = 2 * math.pi * dice.free(1), _way(dice) * _between(dice, 0.85, 1.15)
    wide, high = _between(dice, 0.2, 0.3), _between(dice, 0.2, 0.3)
    angle = begun + turns * 2 * math.pi * time
    size = _between(dice, 0.26, 0.38)
    return Path(0.5 + wide * angle.cos(), 0.5 + high * angle.sin(), size.expand_as(time), torch.zeros_like(time))


def _still(dice: Dice, time: Tensor) -> Path:
    x, y = (0.5 + _between(dice, -0.08, 0.08) for _ in range(2))
    size = _between(dice, 0.55, 0.9)
    return Path(x.expand_as(time), y.expand_as(time), size.expand_as(time), torch.zeros_like(time))


PATHS: Mapping[str, Callable[[Dice, Tensor], Path]] = {
    "left": _line(-1, 0),
    "right": _line(1, 0),
    "up": _line(0, -1),
    "down": _line(0, 1),
    "fall": _fall,
    "bounce": _bounce,
    "spin": _spin,
    "grow": _sized(1),
    "shrink": _sized(-1),
    "orbit": _orbit,
    "still": _still,
}
"""What a thing can do, as ``frolic.data.moves.MOVES`` names it, each in a way of this file's own."""
