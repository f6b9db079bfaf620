"""How long a video is: frames that the model can draw, nearest to what was asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frolic.request.checks import MAX_FRAMES

if TYPE_CHECKING:
    from frolic.request.request import Request
    from frolic.spec import SamplingDefaults

_SAME = 1e-6
"""What a product of seconds and frames a second may be off by rounding."""


@dataclass(frozen=True)
class Length:
    """``frames`` that are drawn and ``fps``, how many are shown a second (None for pictures); ``problems`` are why that
    cannot be, ``notes`` what should be said."""

    frames: int
    fps: float | None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def length_of(request: Request, defaults: SamplingDefaults) -> Length:
    """What ``request`` comes to with a model of these ``defaults``."""
    if defaults.frames <= 1:
        return _of_a_picture(request)
    problems = []
    if request.guidance_scale_2 is not None and defaults.boundary is None:
        problems.append("guidance_scale_2 is for the second of two experts, and this model has one; leave it out")
    fps = float(defaults.fps if request.fps is None else request.fps)
    if request.seconds is None:
        wanted, said = float(request.frames or defaults.frames), f"{request.frames or defaults.frames}"
    else:
        wanted, said = request.seconds * fps, f"{request.seconds:g} s"
        if wanted > MAX_FRAMES:
            problems.append(f"{said} at {fps:g} frames a second are {wanted:.0f} frames, the most is {MAX_FRAMES}")
    frames = _nearest(min(wanted, MAX_FRAMES), defaults.frame_stride)
    notes = []
    if abs(frames - wanted) > _SAME:
        time = "" if request.seconds is None else f" ({frames / fps:.3g} s)"
        notes.append(f"Drawn with {frames} frame{'s' * (frames > 1)}{time}, the nearest that this model has to {said}.")
    return Length(frames, fps, tuple(problems), tuple(notes))


def _of_a_picture(request: Request) -> Length:
    wrong = [name for name in ("seconds", "fps", "guidance_scale_2") if getattr(request, name) is not None]
    if (request.frames or 1) > 1:
        wrong.insert(0, "frames")
    if not wrong:
        return Length(1, None)
    listed = " and ".join(filter(None, [", ".join(wrong[:-1]), wrong[-1]]))
    problem = f"{listed} need a model of videos, and this one draws pictures; give another model, or leave them out"
    if len(wrong) == 1:
        problem = f"{listed} needs a model of videos, and this one draws pictures; give another model, or leave it out"
    return Length(1, None, (problem,))


def _nearest(wanted: float, stride: int) -> int:
    """1 and a multiple of ``stride``, nearest to ``wanted``; the smaller one of two."""
    most = (MAX_FRAMES - 1) // stride
    return 1 + stride * min(most, max(0, math.ceil((wanted - 1) / stride - 0.5)))
