"""Videos as files: MP4, GIF, WebP, or a folder of PNGs; each carries the request that it was made from.

T frames, H/W height and width in pixels.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from frolic.errors import FileError, FrolicError, RequestError, is_out_of_memory
from frolic.io.files import check_folder, check_writable, existing_file, reason, whole_file, whole_folder
from frolic.io.media import FORMATS, MAX_PIXELS, encode_png, opaque, read_record, texts_of

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".mp4", ".gif", ".webp")
MAX_FRAMES = 4096
MAX_FPS = 120
MOST_READ = 100_000
_MAX_BYTES = 4 * 1024**3
"""What the frames of a file that is read may take in memory."""
_PATTERN = re.compile(r"([^%]*)%(?:0(\d))?d([^%]*)\.png", re.IGNORECASE)
_KNOWN = ".mp4, .gif or .webp, or name the frames, as NEW_FOLDER/%04d.png"


def is_pattern(path: Path) -> bool:
    """Whether ``path`` names the frames of a video, as in ``folder/%04d.png``."""
    return _PATTERN.fullmatch(path.name) is not None


def check_place(path: Path, *, fps: float | None = None, force: bool = False) -> None:
    """Refuse a destination that a video cannot be written to, before time is spent on it.

    Raises:
        RequestError: the name ends in something else than a known format, or that has no such ``fps``, or no encoder.
        FileError: as ``frolic.io.files.check_writable``.
    """
    if is_pattern(path):
        check_folder(_folder(path), force=force, ours=_ours(path))
        return
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise RequestError(f"{path} is not the name of a video; end it in {_KNOWN}.")
    if fps is not None:
        _rate(fps, suffix)
    if suffix == ".mp4":
        from frolic.io.mp4 import require_encoder

        require_encoder()
    check_writable(path, force=force)


def remarks(path: Path, height: int, width: int) -> list[str]:
    """What should be said of a video of this size at ``path``."""
    if path.suffix.lower() == ".mp4" and (height % 2 or width % 2):
        size = f"{width + width % 2}x{height + height % 2}"
        return [f"{path} is {size}, its last row or column twice: H.264 has even sides only."]
    return []


def save_video(
    frames: np.ndarray | Iterable[np.ndarray],
    path: Path,
    *,
    fps: float,
    record: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Write ``frames``, uint8 [T, H, W, 3] or one [H, W, 3] after the other, whole or not at all.

    The name decides the format: ``.mp4`` (H.264, nearly without loss; odd sides become even), ``.gif``, ``.webp``, or
    ``folder/%04d.png``: PNGs, counted from 1, in a new folder. ``record`` (see ``frolic.pipeline.Result.record``)
    travels inside, in every PNG. With ``force`` a file is replaced, and a folder that holds such PNGs only.

    Raises:
        RequestError: the frames are not such, there are more than ``MAX_FRAMES``, or as ``check_place``.
        FileError: something is at ``path``, or nothing can be written there.
        ResourceError: the disk is full.
    """
    check_place(path, fps=fps, force=force)
    texts = None if record is None else texts_of(record)
    if is_pattern(path):
        with whole_folder(_folder(path), force=force, ours=_ours(path)) as folder:
            for number, frame in enumerate(_checked(frames), 1):
                (folder / (path.name % number)).write_bytes(encode_png(_image(frame), record))
        return
    rate = _rate(fps, path.suffix.lower())
    with whole_file(path, force=force) as file:
        plain = _Plain(file)
        try:
            _encode(frames, plain, path, rate, texts)
        finally:
            if plain.error is not None:
                raise plain.error


def _encode(
    frames: np.ndarray | Iterable[np.ndarray],
    file: _Plain,
    path: Path,
    rate: Fraction,
    texts: Mapping[str, str] | None,
) -> None:
    suffix = path.suffix.lower()
    try:
        if suffix == ".mp4":
            from frolic.io import mp4

            tags = None if texts is None else {"comment": texts["frolic"], "description": texts["parameters"]}
            most = len(frames) if isinstance(frames, Sized) else MAX_FRAMES
            mp4.write(_checked(frames), file, fps=rate, most=most, texts=tags)
        else:
            from frolic.io import animation

            write = animation.write_gif if suffix == ".gif" else animation.write_webp
            write(list(_checked(frames)), file, fps=rate, record=None if texts is None else texts["frolic"])
    except FrolicError:
        raise
    except OSError as error:
        if error.errno is None or type(error).__module__.startswith("av"):  # not the system's, but an encoder's
            raise FileError(f"{path} cannot be encoded ({reason(error)}); choose another format.") from error
        raise


def read_frames(path: Path, limit: int = MAX_FRAMES) -> np.ndarray:
    """The first ``limit`` frames, uint8 [T, H, W, 3], of what ``save_video`` writes; a pattern finds a folder's PNGs.

    Raises:
        FileError: there is no such file, it cannot be read as a video, or its frames need too much memory.
    """
    return _stacked(path, islice(_decoded(path), limit))


def read_chosen(path: Path, choose: Callable[[int], Collection[int]]) -> tuple[np.ndarray, int]:
    """Of a video's frames, uint8 [T, H, W, 3], those at the places that ``choose`` gives of their number, in order, and
    that number. It is gone through twice, and no other frame is held.

    Raises:
        FileError: as ``read_frames``, or it has more than ``MOST_READ`` frames.
    """
    total = 0
    for total, _ in enumerate(_decoded(path), 1):
        if total > MOST_READ:
            raise FileError(f"{path} has more than {MOST_READ:,} frames; cut it shorter.")
    wanted = frozenset(choose(total))
    return _stacked(path, (frame for place, frame in enumerate(_decoded(path)) if place in wanted)), total


def _stacked(path: Path, decoded: Iterable[np.ndarray]) -> np.ndarray:
    import numpy as np

    frames: list[np.ndarray] = []
    for frame in decoded:
        if (len(frames) + 1) * frame.nbytes > _MAX_BYTES:
            raise FileError(f"{path} has more than can be held in memory; cut it shorter.")
        frames.append(frame)
    if not frames or len({frame.shape for frame in frames}) > 1:
        raise FileError(f"{path} cannot be read as a video; give a whole MP4, GIF or WebP file.")
    return np.stack(frames)


def _decoded(path: Path) -> Iterator[np.ndarray]:
    """The frames of whatever kind of file it is. Raises FileError."""
    reader = _read_pngs if is_pattern(path) else _read_mp4 if _is_mp4(path) else _read_pictures
    try:
        yield from reader(path)
    except FileError:
        raise
    except Exception as error:  # decoders raise what they like at a damaged file
        if is_out_of_memory(error):
            raise
        raise FileError(f"{path} cannot be read as a video; give a whole MP4, GIF or WebP file.") from error


def _read_mp4(path: Path) -> Iterator[np.ndarray]:
    import av
    from av.video.reformatter import Interpolation

    flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    # An open file: a name could be an address.
    with path.open("rb") as file, av.open(file, "r", format="mp4", metadata_errors="replace") as container:
        stream = container.streams.video[0]
        _check_size(path, stream.codec_context.width, stream.codec_context.height)
        for frame in container.decode(stream):
            _check_size(path, frame.width, frame.height)
            yield frame.reformat(format="rgb24", interpolation=flags).to_ndarray()


def _read_pictures(path: Path) -> Iterator[np.ndarray]:
    import numpy as np
    from PIL import Image, ImageSequence

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is ours
            image = Image.open(existing_file(path), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise FileError(f"{path} has more pixels than can be used; make it smaller.") from error
    with image:
        _check_size(path, *image.size)
        count, fps = _recorded(path) if image.format in ("GIF", "WEBP") else (1, 0.0)
        alone, start = getattr(image, "n_frames", 1) == 1, 0.0
        for frame in ImageSequence.Iterator(image):
            pixels = np.asarray(opaque(frame))
            # Encoders make one frame, shown for longer, of several that are alike; a clip of nothing else has no times.
            end = start + frame.info.get("duration", 0) * fps / 1000
            times = count if alone else round(end) - round(start)
            start = end
            for _ in range(max(1, times)):
                yield pixels


def _recorded(path: Path) -> tuple[int, float]:
    """How many frames a clip was written with, and how many a second, if it says so: 1 and 0 where it does not."""
    try:
        request = read_record(path)["request"]
        return int(request["frames"]), float(request["fps"])
    except (FileError, LookupError, TypeError, ValueError, OverflowError):
        return 1, 0.0


def _read_pngs(path: Path) -> Iterator[np.ndarray]:
    number = 1
    while (frame := path.with_name(path.name % number)).is_file():
        yield next(_read_pictures(frame))
        number += 1
    if number == 1:
        existing_file(path.with_name(path.name % 1))


def _is_mp4(path: Path) -> bool:
    with existing_file(path).open("rb") as file:
        return file.read(8)[4:] == b"ftyp"


def _check_size(path: Path, width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise FileError(f"{path} has {width}x{height} pixels, more than can be used; make it smaller.")


def _rate(fps: float, suffix: str) -> Fraction:
    """``fps`` as a fraction, exact for what people write: 16, 29.97, 24000 / 1001."""
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 1 <= fps <= MAX_FPS or not math.isfinite(fps):
        raise RequestError(f"fps is {fps!r}, it must be 1 to {MAX_FPS}.")
    if suffix == ".gif":
        from frolic.io.animation import MOST_GIF_FPS

        if fps > MOST_GIF_FPS:
            raise RequestError(f"A GIF has at most {MOST_GIF_FPS} frames a second; give fewer, or end it in .webp.")
    return Fraction(fps).limit_denominator(1001)


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """``frames``, each refused that is not as the first."""
    shape: tuple[int, ...] | None = None
    number = 0
    for number, frame in enumerate(frames, 1):
        given: tuple[int, ...] = getattr(frame, "shape", ())
        fits = len(given) == 3 and given[2] == 3 and min(given) > 0 and str(getattr(frame, "dtype", "")) == "uint8"
        if not fits or shape not in (None, given):
            raise RequestError(
                f"Frame {number} is {list(given)} of {getattr(frame, 'dtype', type(frame).__name__)}; give uint8 "
                "[height, width, 3], all of one size."
            )
        if number > MAX_FRAMES:
            raise RequestError(f"There are more than {MAX_FRAMES} frames; write several videos.")
        shape = given
        yield frame
    if not number:
        raise RequestError("There is no frame to write; give one or more.")


def _image(frame: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(frame)


def _folder(path: Path) -> Path:
    if path.parent.name in ("", ".."):
        raise RequestError(f"{path} names frames without a new folder for them; write it as NEW_FOLDER/%04d.png.")
    return path.parent


def _ours(path: Path) -> Callable[[str], bool]:
    match = _PATTERN.fullmatch(path.name)
    assert match is not None
    name = re.compile(rf"{re.escape(match[1])}\d+{re.escape(match[3])}\.png", re.IGNORECASE)
    return lambda entry: name.fullmatch(entry) is not None


class _Plain:
    """A file without its descriptor and name: encoders that find those write past it, and lose why they could not.

    It fails once and keeps quiet then: what ffmpeg does on its way out would fail again, and be printed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        return self._tried(lambda: self._file.write(data), len(data))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._tried(lambda: self._file.seek(offset, whence), offset)

    def tell(self) -> int:
        return self._tried(self._file.tell, 0)

    def flush(self) -> None:
        self._tried(lambda: self._file.flush() or 0, 0)

    def _tried(self, act: Callable[[], int], otherwise: int) -> int:
        if self.error is not None:
            return otherwise
        try:
            return act()
        except OSError as error:
            self.error = error
            raise
