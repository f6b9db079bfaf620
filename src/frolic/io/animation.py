"""Animated GIF and WebP, through PIL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from frolic.io.tags import xmp

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MOST_GIF_FPS = 50
"""What is shown for less than 2 hundredths of a second, browsers show for 10."""
_LOSSLESS = 4_000_000
"""Pixels of all frames together, up to which a WebP is exact."""
_SAMPLED = 16
_SAMPLE_PIXELS = 65_536


def write_gif(frames: Sequence[np.ndarray], file: Any, *, fps: Fraction, record: str | None = None) -> None:
    """``frames`` (uint8 [H, W, 3]) as a GIF that repeats. One table of colours serves all of them: with one for each,
    what stands still would flicker. Times are rounded to hundredths of a second so that the sum stays right."""
    from PIL import Image

    table = _table(frames)
    pictures = (Image.fromarray(frame).quantize(palette=table, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames)
    said: dict[str, Any] = {} if record is None else {"comment": record.encode("ascii")}
    times = [10 * time for time in _times(len(frames), fps, 100)]
    _save(pictures, file, format="GIF", duration=times, optimize=False, **said)


def write_webp(frames: Sequence[np.ndarray], file: Any, *, fps: Fraction, record: str | None = None) -> None:
    """``frames`` (uint8 [H, W, 3]) as a WebP that repeats: exact if it is short, else nearly so. Times are rounded to
    milliseconds."""
    from PIL import Image

    pictures = (Image.fromarray(frame) for frame in frames)
    said: dict[str, Any] = {} if record is None else {"xmp": xmp(record)}
    said["lossless"] = sum(frame.shape[0] * frame.shape[1] for frame in frames) <= _LOSSLESS
    _save(pictures, file, format="WEBP", duration=_times(len(frames), fps, 1000), quality=95, method=4, **said)


def _save(pictures: Iterator[Image], file: Any, *, duration: list[int], **options: Any) -> None:
    first = next(pictures)
    # A single frame has no list of times.
    times = duration if len(duration) > 1 else duration[0]
    first.save(file, save_all=True, append_images=pictures, duration=times, loop=0, **options)


def _times(count: int, fps: Fraction, unit: int) -> list[int]:
    """How long each of ``count`` frames is shown, in parts (``unit``) of a second."""
    ends = [round(unit * number / fps) for number in range(count + 1)]
    return [end - start for start, end in pairwise(ends)]


def _table(frames: Sequence[np.ndarray]) -> Image:
    """256 colours for all ``frames``, from some of them and some of their pixels."""
    import numpy as np
    from PIL import Image

    some = [frames[number] for number in np.unique(np.linspace(0, len(frames) - 1, _SAMPLED).round().astype(int))]
    pixels = np.concatenate([frame.reshape(-1, 3) for frame in some])
    pixels = pixels[:: max(1, len(pixels) // _SAMPLE_PIXELS)]
    return Image.fromarray(pixels[None]).quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=3)
