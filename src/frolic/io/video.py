"""Clips as files that carry the request they were made from: MP4 (H.264), GIF, WebP, or a folder of PNGs.

The record is the JSON that a PNG carries: an MP4's and a GIF's comment, a WebP's image description, each PNG's own.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frolic.errors import FileError, RequestError, ResourceError
from frolic.io.files import check_writable, existing_file, write_bytes, write_error
from frolic.io.media import MAX_PIXELS, MAX_TEXT, encode_png, parse_record, read_record

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".mp4", ".webp", ".gif")
"""What a clip's file may end in; a name without an ending is a folder of PNGs."""

_DESCRIPTION = 0x010E  # Exif's ImageDescription
_LOSSLESS = 4_000_000  # pixels in all, up to which a WebP is
_CODECS = {"libx264": {"crf": "14", "preset": "medium", "bf": "0"}, "libopenh264": {}, "h264": {}}


def check_place(path: Path, *, force: bool = False) -> None:
    """Refuse a place where no clip could be written.

    Raises:
        RequestError: its ending is that of no kind of file that clips are kept in.
        FileError: as ``frolic.io.files.check_writable``; of a folder of frames, also that it is not empty.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        check_writable(path, force=force)
    elif suffix:
        raise RequestError(
            f"{path} is not a name for a clip; end it in {', '.join(SUFFIXES)}, or in nothing for a folder of PNGs."
        )
    elif path.exists():
        raise FileError(f"{path} exists; give the name of a new folder for the frames.")
    elif not path.parent.is_dir():
        raise FileError(f"There is no folder {path.parent}; create it or choose another place.")


def save_clip(
    frames: np.ndarray, path: Path, *, fps: float, record: Mapping[str, Any] | None = None, force: bool = False
) -> None:
    """Write ``frames`` (bytes [T, H, W, 3]) at ``path``, whole or not at all, to play at ``fps``.

    H.264 has sides of even numbers of pixels: an odd one gets its border twice.

    Raises:
        RequestError: ``path`` names no kind of file for clips, or the record is longer than ``MAX_TEXT`` characters.
        FileError: nothing can be written there. ResourceError: the disk is full, or nothing here encodes H.264.
    """
    check_place(path, force=force)
    text = "" if record is None else json.dumps(record, ensure_ascii=True, sort_keys=True)
    if len(text) > MAX_TEXT:
        raise RequestError("The request is too long to be kept in the clip; shorten it or use --no-metadata.")
    suffix = path.suffix.lower()
    if not suffix:
        _save_frames(frames, path, record)
        return
    rate = Fraction(fps).limit_denominator(1001)
    if suffix == ".mp4":
        try:
            # Its index is moved to the front by reading the file again, so it needs a name; beside the target, because
            # that is where there has to be room.
            with tempfile.TemporaryDirectory(prefix=".frolic-", dir=path.parent) as folder:
                work = Path(folder, "clip.mp4")
                _mp4(frames, rate, text, work)
                data = work.read_bytes()
        except OSError as error:
            raise write_error(error, path) from error
    else:
        data = (_gif if suffix == ".gif" else _webp)(frames, rate, text)
    write_bytes(path, data, force=force)


def read_clip_record(path: Path) -> dict[str, Any]:
    """The record in a clip's file, or in a PNG.

    Raises:
        FileError: there is no such file, it is damaged, or frolic did not make it.
    """
    suffix = existing_file(path).suffix.lower()
    if suffix not in SUFFIXES:
        return read_record(path)
    try:
        text = _mp4_text(path) if suffix == ".mp4" else _animation_text(path)
    except FileError:
        raise
    except Exception as error:  # readers raise what they like at a damaged file
        raise FileError(f"{path} cannot be read as a clip; get the file again.") from error
    if not text or len(text) > MAX_TEXT:
        raise FileError(f"{path} does not say how it was made; give a clip that frolic wrote without --no-metadata.")
    return parse_record(text, path)


def read_clip(path: Path, most: int = 1025) -> tuple[np.ndarray, float]:
    """The first ``most`` frames of an MP4, GIF or WebP as bytes [T, H, W, 3], and the frames in a second.

    Raises:
        FileError: it cannot be read as a clip of a size that frolic draws.
    """
    import numpy as np

    try:
        if existing_file(path).suffix.lower() == ".mp4":
            import av

            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                _check_size(path, stream.width, stream.height)
                frames = []
                for frame in container.decode(stream):
                    frames.append(frame.to_ndarray(format="rgb24"))
                    if len(frames) == most:
                        break
                return np.stack(frames), float(stream.average_rate or 0)
        from PIL import Image, ImageSequence

        with Image.open(path, formats=("GIF", "WEBP")) as image:
            _check_size(path, *image.size)
            count = min(most, getattr(image, "n_frames", 1))
            frames, milliseconds = [], 0.0
            for _, picture in zip(range(count), ImageSequence.Iterator(image), strict=False):
                frames.append(np.asarray(picture.convert("RGB")))
                milliseconds += picture.info.get("duration", 0)
            return np.stack(frames), 1000 * len(frames) / milliseconds if milliseconds else 0.0
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"{path} cannot be read as a clip; give a whole MP4, GIF or WebP file.") from error


def _check_size(path: Path, width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise FileError(f"{path} has {width}x{height} pixels, more than can be used; make it smaller.")


def _mp4(frames: np.ndarray, fps: Fraction, text: str, path: Path) -> None:
    import av
    import numpy as np
    from av.video.reformatter import ColorRange, Colorspace

    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    codec = next((name for name in _CODECS if name in av.codecs_available and _encodes(name)), None)
    if codec is None:
        raise ResourceError("Nothing here encodes H.264; write a .webp instead, or install av with libx264.")
    # The index in front lets a browser begin before it has all.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        if text:
            container.metadata["comment"] = text
        stream: Any = container.add_stream(codec, rate=fps, options=_CODECS[codec])
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.time_base = stream.codec_context.time_base = 1 / fps
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
        context.color_range = ColorRange.MPEG
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            frame.pts, frame.time_base = number, 1 / fps
            for packet in stream.encode(frame):
                packet.duration = 1
                container.mux(packet)
        for packet in stream.encode():
            packet.duration = 1
            container.mux(packet)


def _encodes(name: str) -> bool:
    import av

    try:
        av.Codec(name, "w")
    except Exception:
        return False
    return True


def _mp4_text(path: Path) -> str:
    import av

    with av.open(str(path)) as container:
        return str(container.metadata.get("comment", ""))


def _durations(count: int, fps: Fraction, unit: int) -> list[int]:
    """Milliseconds of each frame, multiples of ``unit``, whose sum is nowhere far from what it should be."""
    ends = [round(1000 * number / fps / unit) * unit for number in range(count + 1)]
    return [max(unit, after - before) for before, after in pairwise(ends)]


def _gif(frames: np.ndarray, fps: Fraction, text: str) -> bytes:
    from PIL import Image

    images = [Image.fromarray(frame).quantize(256, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], loop=0, duration=_durations(len(images), fps, 10),
        **({"comment": text.encode("ascii")} if text else {}),
    )  # fmt: skip
    return buffer.getvalue()


def _webp(frames: np.ndarray, fps: Fraction, text: str) -> bytes:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    exif = Image.Exif()
    if text:
        exif[_DESCRIPTION] = text
    buffer = io.BytesIO()
    images[0].save(
        buffer, "WEBP", save_all=True, append_images=images[1:], loop=0, duration=_durations(len(images), fps, 1),
        lossless=frames.size // 3 <= _LOSSLESS, quality=92, **({"exif": exif} if text else {}),
    )  # fmt: skip
    return buffer.getvalue()


def _animation_text(path: Path) -> str:
    from PIL import Image

    with Image.open(path, formats=("GIF", "WEBP")) as image:
        _check_size(path, *image.size)
        said = image.info.get("comment", b"")
        if said:
            return said.decode("ascii", "replace") if isinstance(said, bytes) else str(said)
        return str(image.getexif().get(_DESCRIPTION, ""))


def _save_frames(frames: np.ndarray, path: Path, record: Mapping[str, Any] | None) -> None:
    from PIL import Image

    work = None
    try:
        work = Path(tempfile.mkdtemp(prefix=".frolic-", dir=path.parent))
        for number, frame in enumerate(frames):
            (work / f"{number:04d}.png").write_bytes(encode_png(Image.fromarray(frame), record))
        mask = os.umask(0)
        os.umask(mask)
        work.chmod(0o777 & ~mask)  # a temporary folder is its owner's alone
        work.rename(path)
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
