"""H.264 in MP4, as every browser plays it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from frolic.errors import RequestError

if TYPE_CHECKING:
    import numpy as np

_ENCODER = "libx264"
_OPTIONS = {"crf": "12", "preset": "medium", "profile": "high", "mbtree": "0"}
"""Nearly without loss: at small sizes the artefacts of the default quality, 23, are seen. Without macroblock trees, for
which x264 reads memory that it has not written: small clips came out otherwise in one file of fifty."""
_BT709 = 1
"""The number of these primaries, transfer and matrix in H.264; also of the range that television has."""
_INDEX_FRAME = 40
"""Bytes that the index of an MP4 may take for each frame."""
_INDEX = 16_384
"""Bytes that it takes for all else."""


def require_encoder() -> None:
    """Refuse a build of ``av`` that cannot write H.264.

    Raises:
        RequestError: it is one.
    """
    import av

    if _ENCODER not in av.codecs_available:
        raise RequestError(
            "This build of av has no H.264 encoder (libx264); install another, or end it in .webp or .gif."
        )


def write(
    frames: Iterator[np.ndarray], file: Any, *, fps: Fraction, most: int, texts: Mapping[str, str] | None = None
) -> None:
    """Encode ``frames`` (uint8 [H, W, 3], ``most`` at most) into ``file``, which can seek; nothing is read back.

    A side that is odd is one longer, by its last row or column again: H.264 has half as many colours along a side.
    ``texts`` are tags that MP4 knows. What the clip needs to begin playing comes first in the file.

    Raises:
        OSError: the file cannot be written, or ``av`` cannot encode.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    first = next(frames)
    height, width = first.shape[0] + first.shape[0] % 2, first.shape[1] + first.shape[1] % 2
    tags = dict(texts or {})
    room = _INDEX + most * _INDEX_FRAME + sum(len(text.encode()) + 64 for text in tags.values())
    flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
    # Room for the index is left at the front. The other way, moving all frames, needs to open the file by a name.
    # The unit of time is that of the frames, everywhere: then the duration is exact.
    options = {"moov_size": str(room), "movie_timescale": str(_timescale(fps))}
    output: Any = av.open(file, "w", format="mp4", options=options)
    try:
        output.metadata.update(tags)
        stream = output.add_stream(_ENCODER, rate=fps, options=dict(_OPTIONS))
        stream.width, stream.height, stream.pix_fmt, stream.time_base = width, height, "yuv420p", 1 / fps
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = context.color_range = _BT709
        for number, frame in enumerate(_with_first(first, frames)):
            picture = av.VideoFrame.from_ndarray(_even(frame), format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=flags,
            )
            picture.pts, picture.time_base = number, 1 / fps
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    except BaseException:
        _abandon(output)
        raise
    output.close()


def _timescale(fps: Fraction) -> int:
    """What ffmpeg makes of the unit of time of a stream: at least 10,000 a second."""
    scale = fps.numerator
    while scale < 10_000:
        scale *= 2
    return scale


def _with_first(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def _even(frame: np.ndarray) -> np.ndarray:
    import numpy as np

    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)


def _abandon(output: Any) -> None:
    """Close what will be thrown away, whatever else goes wrong."""
    try:
        output.close()
    except Exception:
        return
