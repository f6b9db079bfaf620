"""What one thing does in a clip, from its pixels alone: where it is, how large, and how it has turned.

The ground is what the frame's rim shows, so it has to be plain; the thing is what differs from it.
T frames, H/W sides of a frame, A angles, R radii.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MOVES = ("left", "right", "up", "down", "fall", "bounce", "spin", "grow", "shrink", "orbit", "still")
STATIC = 1.0
"""A clip whose frames differ by less on average, in shades of 255, from the first is static."""
_DIFFERS = 26
_FAR, _NEAR = 0.16, 0.1  # of the frame's side
_ANGLES, _RADII = 90, 8


@dataclass(frozen=True)
class Track:
    """Of each frame: centre ``x`` and ``y`` (over the sides), ``side`` (root of the area, over the frame's), and
    ``turned``, the angle since the first, clockwise, in radians. ``change`` is how far frames differ from the first, in
    shades; ``seen`` in how many frames there was anything."""

    x: np.ndarray
    y: np.ndarray
    side: np.ndarray
    turned: np.ndarray
    change: float
    seen: int


def track(frames_THW3: np.ndarray) -> Track:
    """Follow the one thing in ``frames`` (bytes)."""
    frames = frames_THW3.astype(np.float32)
    count, height, width, _ = frames.shape
    change = float(np.abs(frames - frames[:1]).mean()) * count / max(1, count - 1)
    places: list[tuple[float, float, float]] = []
    profiles: list[np.ndarray | None] = []
    seen = 0
    for frame in frames:
        mask = _differs(frame)
        area = float(mask.sum())
        if area < 0.002 * height * width:
            places.append(places[-1] if places else (0.5, 0.5, 0.0))
            profiles.append(None)
            continue
        seen += 1
        rows, columns = np.nonzero(mask)
        middle = (float(columns.mean()) + 0.5, float(rows.mean()) + 0.5)
        places.append((middle[0] / width, middle[1] / height, math.sqrt(area / (height * width))))
        # A turning thing turns about the middle of its own box more than about its centre of mass.
        profiles.append(_profile(frame, mask, middle, math.sqrt(area / math.pi)))
    turned = [0.0]
    for before, after in pairwise(profiles):
        turned.append(turned[-1] + (0.0 if before is None or after is None else _turn(before, after)))
    x, y, side = (np.array(values) for values in zip(*places, strict=True))
    return Track(x, y, side, np.array(turned), change, seen)


def motion(frames_THW3: np.ndarray) -> str:
    """The one of ``MOVES`` that a clip shows best."""
    return said_by(track(frames_THW3))


def said_by(track: Track) -> str:
    """By rules, the more particular ones first."""
    x, y = track.x, track.y
    across, down = float(x[-1] - x[0]), float(y[-1] - y[0])
    wide, high = float(np.ptp(x)), float(np.ptp(y))
    grown = math.log(max(1e-6, track.side[-1]) / max(1e-6, track.side[0]))
    away = math.hypot(across, down)
    if wide > _FAR and high > _FAR and away < 0.6 * max(wide, high) and _goes_around(x, y):
        return "orbit"
    if high > _NEAR and abs(down) < 0.5 * high and wide < 0.7 * high and _hops(y) >= 2:
        return "bounce"
    if abs(grown) > 0.35 and abs(grown) > 1.2 * away:
        return "grow" if grown > 0 else "shrink"
    if abs(across) > _FAR and abs(across) > abs(down):
        return "left" if across < 0 else "right"
    if abs(down) > _FAR:
        if down < 0:
            return "up"
        middle = len(y) // 2
        first, second = float(y[middle] - y[0]), float(y[-1] - y[middle])
        return "fall" if second > 1.8 * max(first, 0.0) else "down"
    if abs(float(track.turned[-1])) > 0.6 * 2 * math.pi or float(np.abs(np.diff(track.turned)).sum()) > 2 * math.pi:
        return "spin"
    return "still"


def is_static(track: Track) -> bool:
    """Whether nothing happens in a clip."""
    return track.change < STATIC


def _differs(frame: np.ndarray) -> np.ndarray:
    """[H, W]: where a frame is not what its rim is, row by row, because grounds run from top to bottom."""
    rim = np.concatenate([frame[:, :2], frame[:, -2:]], axis=1)
    ground = np.median(rim, axis=1)
    whole = np.median(np.concatenate([frame[:2].reshape(-1, 3), frame[-2:].reshape(-1, 3), rim.reshape(-1, 3)]), axis=0)
    # Where the thing itself reaches the rim, the row says nothing: there the ground of all of it counts.
    odd = np.abs(ground - whole).max(axis=1) > 60
    ground[odd] = whole
    return np.abs(frame - ground[:, None]).max(axis=2) > _DIFFERS


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
    angles = np.unwrap(np.arctan2(y - y.mean(), x - x.mean()))
    return abs(float(angles[-1] - angles[0])) > 1.3 * math.pi
