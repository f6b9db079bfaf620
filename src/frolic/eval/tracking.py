"""What one thing does in a clip, from its pixels alone: where it is, how large, and how it has turned.

The ground is told from the frames' rims and from what does not change; the thing is what differs from it.
T frames, H/W sides of a frame, A angles, R radii.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.data.beside import reached

MOVES = ("left", "right", "up", "down", "fall", "bounce", "spin", "grow", "shrink", "orbit", "still")
NONE = "none"
"""What a clip shows that shows none of ``MOVES``: a thing that comes and goes, or jumps from place to place."""
STATIC = 3.2
"""A clip that stirs less than this is static; true ones that stand still, with noise and flicker, stir up to 2.5."""
_BLOCK = 6
_DIFFERS, _CHANGES = 26.0, 30.0  # shades of 255
_FAR, _NEAR = 0.16, 0.1  # of the frame's side
_ANGLES, _RADII = 90, 8
_SEEN = 0.7
"""Of how many frames the thing must be in."""


@dataclass(frozen=True)
class Track:
    """Of each frame: centre ``x`` and ``y`` (over the sides), ``side`` (root of the area, over the frame's), ``spread``
    (how far its parts are from its centre, over the frame's), ``contrast`` to the ground, in shades, and ``turned``,
    the angle since the first, clockwise, in radians. ``stir`` is how much happens, in shades; ``seen`` in how many
    frames there was anything."""

    x: np.ndarray
    y: np.ndarray
    side: np.ndarray
    spread: np.ndarray
    contrast: np.ndarray
    turned: np.ndarray
    stir: float
    seen: int


def track(frames_THW3: np.ndarray) -> Track:
    """Follow the one thing in ``frames`` (bytes)."""
    frames = torch.from_numpy(np.array(frames_THW3)).float()
    _, height, width, _ = frames.shape
    masks, far = (part.numpy() for part in _masks(frames))
    places: list[tuple[float, ...]] = []
    profiles: list[np.ndarray | None] = []
    seen = 0
    for frame, mask, shades in zip(frames.numpy(), masks, far, strict=True):
        area = float(mask.sum())
        if area < 0.002 * height * width:
            places.append(places[-1] if places else (0.5, 0.5, 0.0, 0.0, 0.0))
            profiles.append(None)
            continue
        seen += 1
        rows, columns = np.nonzero(mask)
        middle = (float(columns.mean()) + 0.5, float(rows.mean()) + 0.5)
        large = math.sqrt(area / (height * width))
        wide = math.hypot(float(columns.std()) / width, float(rows.std()) / height)
        places.append((middle[0] / width, middle[1] / height, large, wide, float(shades[mask].mean())))
        profiles.append(_profile(frame, mask, middle, math.sqrt(area / math.pi)))
    turned = [0.0]
    for before, after in pairwise(profiles):
        turned.append(turned[-1] + (0.0 if before is None or after is None else _turn(before, after)))
    x, y, side, spread, contrast = (np.array(values) for values in zip(*places, strict=True))
    return Track(x, y, side, spread, contrast, np.array(turned), _stir(frames), seen)


def motion(frames_THW3: np.ndarray) -> str:
    """The one of ``MOVES`` that a clip shows best, or ``NONE``."""
    return said_by(track(frames_THW3))


def said_by(track: Track) -> str:
    """By rules, the more particular ones first."""
    if track.seen < _SEEN * len(track.x):
        return NONE
    x, y = _steady(track.x), _steady(track.y)
    across, down = float(x[-1] - x[0]), float(y[-1] - y[0])
    wide, high = float(np.ptp(x)), float(np.ptp(y))
    sides = _steady(track.side)
    grown = math.log(max(1e-6, sides[-1]) / max(1e-6, sides[0]))
    away = math.hypot(across, down)
    spins = abs(float(track.turned[-1])) > 0.6 * 2 * math.pi
    # What turns about another place than its centre of mass goes around too, but not far.
    least = 0.28 if spins else _FAR
    if min(wide, high) > least and away < 0.75 * max(wide, high) and _goes_around(x, y):
        return "orbit"
    if spins and max(wide, high) < 0.28:
        return "spin"
    if high > _NEAR and abs(down) < 0.5 * high and wide < 0.7 * high and 2 <= _hops(y) <= 4:
        return "bounce"
    if abs(grown) > 0.35 and abs(grown) > 1.2 * away:
        return NONE if _fades(track.contrast) else "grow" if grown > 0 else "shrink"
    if max(abs(across), abs(down)) > _FAR and not _travels(x, y, track.spread):
        return NONE
    if abs(across) > _FAR and abs(across) > abs(down):
        return "left" if across < 0 else "right"
    if abs(down) > _FAR:
        if down < 0:
            return "up"
        middle = len(y) // 2
        first, second = float(y[middle] - y[0]), float(y[-1] - y[middle])
        return "fall" if second > 1.8 * max(first, 0.0) else "down"
    return "still"


def is_static(track: Track) -> bool:
    """Whether nothing happens in a clip."""
    return track.stir < STATIC


def _stir(frames_THW3: Tensor) -> float:
    """How much the liveliest of all blocks of pixels change more than most of them do: noise, and light that flickers,
    are everywhere alike."""
    blocks = F.avg_pool2d(frames_THW3.permute(0, 3, 1, 2), _BLOCK)
    changes = blocks.std(0, unbiased=False).amax(0).flatten()
    return float(changes.quantile(0.98) - changes.median())


def _masks(frames_THW3: Tensor) -> tuple[Tensor, Tensor]:
    """bool [T, H, W]: where the thing is; and how far, in shades, every pixel is from the ground."""
    soft = F.avg_pool2d(frames_THW3.permute(0, 3, 1, 2), 3, 1, 1, count_include_pad=False)
    far = torch.stack([_from_ground(soft, ground) for ground in (_by_rows(soft), _by_surface(soft))]).amin(0)
    differs = far > _DIFFERS
    # The second largest and smallest: one odd frame is no change.
    order = F.avg_pool2d(soft, 3, 1, 1, count_include_pad=False).sort(0).values
    odd = 1 if len(order) > 4 else 0
    changing = (order[len(order) - 1 - odd] - order[odd]).amax(0) > _CHANGES
    if float(changing.float().mean()) < 0.005:
        return differs, far
    always = differs.float().mean(0) > 0.8
    if float((always & ~_around(changing)).float().mean()) < 0.01:
        return differs, far
    ground = reached(~changing)
    within = differs & ~ground
    # Where much of what never changes is not as the rim says, there is scenery: what is there most of the time is it.
    if float(always[ground].float().mean()) > 0.04:
        within &= (soft - soft.median(0).values).abs().amax(1) > _DIFFERS
    return within, far


def _from_ground(soft_T3HW: Tensor, ground_3HW: Tensor) -> Tensor:
    """[T, H, W] in shades; light that comes and goes in all of a frame does not count."""
    off = soft_T3HW - ground_3HW
    rim = torch.cat([off[:, :, :2].flatten(2), off[:, :, -2:].flatten(2)], 2)
    sides = torch.cat([off[..., :2].flatten(2), off[..., -2:].flatten(2)], 2)
    return (off - torch.cat([rim, sides], 2).median(2).values[..., None, None]).abs().amax(1)


def _around(mask_HW: Tensor) -> Tensor:
    """bool [H, W]: the smallest upright box about a mask."""
    rows, columns = mask_HW.any(1).nonzero().flatten(), mask_HW.any(0).nonzero().flatten()
    box = torch.zeros_like(mask_HW)
    box[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1] = True
    return box


def _by_rows(soft_T3HW: Tensor) -> Tensor:
    """[3, H, 1]: what the left and the right rim show, row by row, most of the time; grounds run from top to bottom."""
    rim = torch.cat([soft_T3HW[..., :2], soft_T3HW[..., -2:]], 3)
    rows = rim.permute(1, 2, 0, 3).flatten(2).median(2).values
    edges = [soft_T3HW[:, :, :2], soft_T3HW[:, :, -2:], soft_T3HW[..., :2], soft_T3HW[..., -2:]]
    whole = torch.cat([edge.flatten(2) for edge in edges], 2).transpose(0, 1).flatten(1).median(1).values
    # Where the thing itself reaches the rim, the row says nothing: there the ground of all of it counts.
    odd = (rows - whole[:, None]).abs().amax(0) > 60
    return torch.where(odd, whole[:, None], rows)[..., None]


def _by_surface(soft_T3HW: Tensor) -> Tensor:
    """[3, H, W]: a surface of the second degree through what the rims show most of the time."""
    height, width = soft_T3HW.shape[2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    terms = torch.stack([torch.ones_like(x), x, y, x * y, x * x, y * y]).flatten(1)
    rim = ((x.abs() > 1 - 5 / width) | (y.abs() > 1 - 5 / height)).flatten()
    seen, there = soft_T3HW.median(0).values.flatten(1)[:, rim].T, terms[:, rim].T
    kept = torch.ones(len(seen), dtype=torch.bool)
    fit = torch.zeros(6, 3)
    for _ in range(3):  # without what lies farthest off: the thing, where it reaches the rim
        fit = torch.linalg.lstsq(there[kept], seen[kept]).solution
        wrong = (there @ fit - seen).abs().amax(1)
        kept = wrong <= wrong[kept].quantile(0.8) + 4
    return (terms.T @ fit).T.reshape(3, height, width)


def _steady(values: np.ndarray) -> np.ndarray:
    """The middle of each three, so that one odd frame is no motion."""
    if len(values) < 3:
        return values
    inner = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
    return np.concatenate([values[:1], inner, values[-1:]])


def _travels(x: np.ndarray, y: np.ndarray, spread: np.ndarray) -> bool:
    """Whether a thing goes from place to place through those between them, one after the other and as one thing: what
    fades away here while it appears there is far apart meanwhile, and what is cut out here and put there makes one
    large step."""
    steps = np.hypot(np.diff(x), np.diff(y))
    way, away = float(steps.sum()), math.hypot(float(x[-1] - x[0]), float(y[-1] - y[0]))
    apart = float(np.quantile(spread, 0.75)) > 1.3 * max(float(spread[0]), float(spread[-1]))
    return float(steps.max()) < 0.45 * way and away > 0.6 * way and not apart


def _fades(contrast: np.ndarray) -> bool:
    """Whether a thing gets paler, or the other way around: of what appears or vanishes more and more is seen, too."""
    ends = float(contrast[0]), float(contrast[-1])
    return max(ends) > 1.8 * min(ends)


def _profile(frame: np.ndarray, mask: np.ndarray, middle: tuple[float, float], radius: float) -> np.ndarray:
    """[R, A, 4]: colours around the middle, and where there is the thing at all."""
    height, width, _ = frame.shape
    angles = np.arange(_ANGLES) * 2 * math.pi / _ANGLES
    radii = radius * np.linspace(0.35, 1.25, _RADII)
    columns = np.clip(np.rint(middle[0] - 0.5 + radii[:, None] * np.cos(angles)), 0, width - 1).astype(int)
    rows = np.clip(np.rint(middle[1] - 0.5 + radii[:, None] * np.sin(angles)), 0, height - 1).astype(int)
    inside = mask[rows, columns][..., None]
    rings = np.concatenate([frame[rows, columns] / 255 * inside, inside], axis=2)
    return np.asarray(rings - rings.mean(axis=1, keepdims=True))


def _turn(before: np.ndarray, after: np.ndarray) -> float:
    """The angle, clockwise, between -60 and 60 degrees, by which ``before`` fits ``after`` best; none where no turn
    fits clearly better than none."""
    spectrum = np.fft.rfft(after, axis=1) * np.conj(np.fft.rfft(before, axis=1))
    fit = np.fft.irfft(spectrum, n=_ANGLES, axis=1).sum(axis=(0, 2))
    reach = _ANGLES // 6
    offsets = np.concatenate([np.arange(reach + 1), np.arange(-reach, 0)])
    best = int(offsets[np.argmax(fit[offsets])])
    gain = fit[best] - fit[0]
    return best * 2 * math.pi / _ANGLES if gain > 0.02 * abs(fit[0]) else 0.0


def _hops(y: np.ndarray) -> int:
    """How often it comes down again, by at least a third of its whole range."""
    least = 0.33 * float(np.ptp(y))
    hops, highest, lowest, rising = 0, float(y[0]), float(y[0]), False
    for value in map(float, y[1:]):
        if rising:
            highest = min(highest, value)
            if value - highest > least:
                hops, rising, lowest = hops + 1, False, value
        else:
            lowest = max(lowest, value)
            if lowest - value > least:
                rising, highest = True, value
    return hops


def _goes_around(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether a path turns about its middle by more than half a circle, one way."""
    angles = np.unwrap(np.arctan2(y - (y.max() + y.min()) / 2, x - (x.max() + x.min()) / 2))
    return abs(float(angles[-1] - angles[0])) > 1.3 * math.pi
