"""Sizes in pixels: what an aspect means to a model, and how much is drawn at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frolic.spec import SamplingDefaults

_BATCH_PIXELS = 4 * 1024 * 1024
_MAX_BATCH = 8


def batch_size(height: int, width: int, frames: int = 1) -> int:
    """How many pictures of this size, in pixels, or videos of so many ``frames``, are drawn at once."""
    return max(1, min(_MAX_BATCH, _BATCH_PIXELS // (height * width * frames)))


def parse_aspect(text: Any) -> tuple[float, float] | None:
    """Width and height of "16:9" (or "16x9", "16/9"), or None."""
    if not isinstance(text, str):
        return None
    parts = text.replace("x", ":").replace("/", ":").split(":")
    try:
        width, height = (float(part) for part in parts)
    except ValueError:
        return None
    sane = all(math.isfinite(side) and side > 0 for side in (width, height))
    return (width, height) if sane and 0.25 <= width / height <= 4 else None


def sides_of(aspect: str, defaults: SamplingDefaults, stride: int) -> tuple[int, int]:
    """Width and height for ``aspect``: a size the model was trained with, or as many pixels as it draws by default."""
    parsed = parse_aspect(aspect)
    assert parsed is not None
    sides = parsed[0] / parsed[1], 1.0  # only their ratio says something, and it alone is of a size to compute with
    if defaults.bin_base:
        from frolic.bins import nearest_bin

        height, width = nearest_bin(round(sides[1] * 1000), round(sides[0] * 1000), defaults.bin_base)
        return width, height
    scale = math.sqrt(defaults.width * defaults.height / (sides[0] * sides[1]))
    width, height = (max(1, round(side * scale / stride)) * stride for side in sides)
    return width, height
