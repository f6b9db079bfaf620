"""Videos as files: what is in them, that they are whole or absent, and what is refused."""

from __future__ import annotations

import errno
import io
import itertools
import os
import resource
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import pytest
from PIL import Image

from clips import clip, psnr, record, timing
from frolic.errors import FileError, RequestError, ResourceError
from frolic.io import files, mp4, video
from frolic.io.media import read_record, read_texts

NAMES = ("a.mp4", "a.gif", "a.webp", "a/%04d.png")
FILES = NAMES[:3]


def made(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def first_file(path: Path) -> Path:
    return path.with_name(path.name % 1) if video.is_pattern(path) else path


@pytest.mark.parametrize(("name", "least"), [("a.mp4", 37), ("a.gif", 28), ("a.webp", 38), ("a/%04d.png", 99)])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_the_frames_come_back(tmp_path: Path, name: str, least: float, frames: int) -> None:
    video.save_video(clip(frames), tmp_path / name, fps=16)
    again = video.read_frames(tmp_path / name)
    assert again.shape == (frames, 48, 64, 3) and again.dtype == np.uint8
    assert min(psnr(a, b) for a, b in zip(again, clip(frames), strict=True)) >= least


@pytest.mark.parametrize("name", NAMES)
def test_colours_are_kept(tmp_path: Path, name: str) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)]
    frames = np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in colours])
    video.save_video(frames, tmp_path / name, fps=8)
    again = video.read_frames(tmp_path / name)
    assert np.abs(again.astype(int) - frames).max() <= 4


@pytest.mark.parametrize("name", NAMES)
def test_frames_may_come_one_after_the_other(tmp_path: Path, name: str) -> None:
    video.save_video(clip(), tmp_path / name, fps=16, record=record())
    other = tmp_path / "other" / name
    (tmp_path / "other").mkdir()
    video.save_video(iter(clip()), other, fps=16, record=record())
    assert np.array_equal(video.read_frames(tmp_path / name), video.read_frames(other))
    assert read_record(first_file(other)) == record()


def test_the_same_frames_make_the_same_mp4() -> None:
    """Whatever is in the memory that the encoder is given."""
    frames, sizes, made = clip(17, 96, 96), np.random.default_rng(0), set()
    for _ in range(60):
        used = [sizes.integers(0, 256, sizes.integers(1_000, 300_000), np.uint8) for _ in range(3)]
        file = io.BytesIO()
        mp4.write(iter(frames), file, fps=Fraction(16), most=len(frames))
        made.add(file.getvalue())
        del used
    assert len(made) == 1


@pytest.mark.parametrize("fps", [16, 24, 29.97, 24000 / 1001, 1, 120, 12.5])
@pytest.mark.parametrize("frames", [1, 9, 33])
def test_an_mp4_plays_exactly_as_long_as_it_should(tmp_path: Path, fps: float, frames: int) -> None:
    video.save_video(clip(frames, 16, 16), tmp_path / "a.mp4", fps=fps)
    rate = Fraction(fps).limit_denominator(1001)
    assert timing(tmp_path / "a.mp4") == (frames / rate, [number / rate for number in range(frames)])
    assert abs(float(rate) - fps) < 1e-9


def test_an_mp4_is_what_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    video.save_video(clip(), path, fps=16)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat"), "it begins to play before it is here"
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.profile) == ("h264", "yuv420p", "High")
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        assert container.duration == 562_500, "microseconds, of the whole file"


@pytest.mark.parametrize(("height", "width"), [(33, 48), (32, 47), (33, 47), (1, 1)])
def test_odd_sides_are_made_even_without_distortion(tmp_path: Path, height: int, width: int) -> None:
    frames = clip(3, height, width)
    video.save_video(frames, tmp_path / "a.mp4", fps=16)
    again = video.read_frames(tmp_path / "a.mp4")
    assert again.shape == (3, height + height % 2, width + width % 2, 3)
    assert psnr(again[:, :height, :width], frames) > 37
    (said,) = video.remarks(tmp_path / "a.mp4", height, width)
    assert f"{again.shape[2]}x{again.shape[1]}" in said
    for name in FILES[1:]:
        video.save_video(frames, tmp_path / name, fps=16)
        assert video.read_frames(tmp_path / name).shape == frames.shape
        assert video.remarks(tmp_path / name, height, width) == []
    assert video.remarks(tmp_path / "a.mp4", 32, 48) == []


@pytest.mark.parametrize(("name", "unit"), [("a.gif", 10), ("a.webp", 1)])
@pytest.mark.parametrize("fps", [16, 24, 30, 7])
def test_an_animation_plays_as_long_as_its_format_can_say(tmp_path: Path, name: str, unit: int, fps: int) -> None:
    video.save_video(clip(31), tmp_path / name, fps=fps)
    with Image.open(tmp_path / name) as image:
        times = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            times.append(image.info["duration"])
        assert image.info["loop"] == 0
    assert len(times) == 31 and abs(sum(times) - 31000 / fps) <= unit / 2
    assert max(times) - min(times) <= unit


def test_a_gif_has_one_table_of_colours_and_stands_still_where_the_video_does(tmp_path: Path) -> None:
    frames = np.repeat(clip(1), 6, axis=0)
    frames[:, -16:, :16] = clip(6, 16, 16, seed=3)
    video.save_video(frames, tmp_path / "a.gif", fps=10)
    again = video.read_frames(tmp_path / "a.gif")
    assert len(np.unique(again.reshape(-1, 3), axis=0)) <= 256
    moved = np.any(again != again[:1], axis=(0, 3))
    assert not moved[:-16].any() and moved[-16:, :16].any(), "the dithering runs from above"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("long", [False, True])
def test_the_record_comes_back_exactly(tmp_path: Path, name: str, long: bool) -> None:
    kept = record(prompt="x&<猫" * 20_000) if long else record()
    video.save_video(clip(), tmp_path / name, fps=16, record=kept)
    assert read_record(first_file(tmp_path / name)) == kept
    video.save_video(clip(), tmp_path / f"b{name}", fps=16)
    assert read_texts(first_file(tmp_path / f"b{name}")) == {}
    with pytest.raises(FileError, match="does not say how it was made"):
        read_record(first_file(tmp_path / f"b{name}"))


def test_every_png_of_a_video_carries_the_record(tmp_path: Path) -> None:
    video.save_video(clip(3), tmp_path / "frames" / "f-%02d.png", fps=16, record=record())
    assert made(tmp_path / "frames") == ["f-01.png", "f-02.png", "f-03.png"]
    assert all(read_record(path) == record() for path in (tmp_path / "frames").iterdir())


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}, {"movflags": "use_metadata_tags"}])
@pytest.mark.parametrize("kind", ["mp4", "mov"])
def test_the_record_survives_a_remux(tmp_path: Path, options: dict[str, str], kind: str) -> None:
    """What ``ffmpeg -i a.mp4 -c copy b.mp4`` does: the packets as they are, the tags that were read."""
    video.save_video(clip(), tmp_path / "a.mp4", fps=16, record=record())
    with (
        av.open(str(tmp_path / "a.mp4")) as source,
        av.open(str(tmp_path / f"b.{kind}"), "w", options=options) as target,
    ):
        assert source.metadata["comment"].startswith("{") and "Steps: 20" in source.metadata["description"]
        target.metadata.update(source.metadata)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    if kind == "mp4" or options.get("movflags") == "use_metadata_tags":
        assert read_record(tmp_path / f"b.{kind}") == record()
    else:  # QuickTime's own tags are short, and not read
        assert read_texts(tmp_path / f"b.{kind}") == {}


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("forced", [False, True])
def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, forced: bool
) -> None:
    if forced:
        video.save_video(clip(3), tmp_path / name, fps=16)
    before = video.read_frames(tmp_path / name) if forced else None
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))
    try:
        with pytest.raises(ResourceError, match="no room on the disk"):
            video.save_video(noise, tmp_path / name, fps=16, force=forced)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert made(tmp_path) == ([Path(name).parts[0]] if forced else [])
    assert capfd.readouterr().err == "", "nothing is printed by libraries"
    if before is not None:
        assert np.array_equal(video.read_frames(tmp_path / name), before)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_disk_that_fills_while_encoding_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, after: int
) -> None:
    """At any of the first writes, wherever the encoder happens to be."""
    real = os.fdopen

    class Filling:
        def __init__(self, file: BinaryIO) -> None:
            self.file, self.left = file, after

        def write(self, data: Any) -> int:
            self.left -= 1
            if self.left < 0:
                full(0)
            return self.file.write(data)

        def __enter__(self) -> Filling:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, which: str) -> Any:
            return getattr(self.file, which)

    monkeypatch.setattr(files.os, "fdopen", lambda *given: Filling(real(*given)))
    if name == "a.webp" and after:  # which is written at once
        video.save_video(clip(), tmp_path / name, fps=16)
        assert made(tmp_path) == [name]
        return
    with pytest.raises(ResourceError, match="no room on the disk"):
        video.save_video(clip(), tmp_path / name, fps=16)
    assert made(tmp_path) == [] and capfd.readouterr().err == ""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
def test_what_is_interrupted_leaves_nothing(tmp_path: Path, name: str, stop: type[BaseException]) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield from clip(5)
        raise stop

    with pytest.raises(stop):
        video.save_video(frames(), tmp_path / name, fps=16)
    assert made(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_existing_video_is_kept_unless_forced(tmp_path: Path, name: str) -> None:
    video.save_video(clip(2), tmp_path / name, fps=16)
    for refuse in (
        lambda: video.save_video(clip(3), tmp_path / name, fps=16),
        lambda: video.check_place(tmp_path / name),
    ):
        with pytest.raises(FileError, match="already exists"):
            refuse()
    assert len(video.read_frames(tmp_path / name)) == 2
    video.save_video(clip(3), tmp_path / name, fps=16, force=True)
    assert len(video.read_frames(tmp_path / name)) == 3 and len(made(tmp_path)) == 1


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    video.save_video(clip(2), tmp_path / "a" / "%04d.png", fps=16)
    (tmp_path / "a" / "letter.txt").write_text("mine")
    with pytest.raises(FileError, match="other files"):
        video.save_video(clip(3), tmp_path / "a" / "%04d.png", fps=16, force=True)
    assert made(tmp_path / "a") == ["0001.png", "0002.png", "letter.txt"] and made(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["%04d.png", "../%04d.png", "/%04d.png"])
def test_frames_need_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="without a new folder"):
        video.check_place(Path(name), force=True)


@pytest.mark.parametrize("name", ["a.avi", "a", "a.png", "a.mp4.txt", "a/b%d-%d.png", "a/%s.png"])
def test_an_unknown_name_is_refused_with_those_that_are_known(tmp_path: Path, name: str) -> None:
    for call in (lambda p: video.check_place(p), lambda p: video.save_video(clip(1), p, fps=16)):
        with pytest.raises(RequestError, match=r"\.mp4, \.gif or \.webp"):
            call(tmp_path / name)
    assert made(tmp_path) == []


def test_places_that_cannot_be_written_are_refused_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        with pytest.raises(FileError, match="no folder"):
            video.check_place(tmp_path / "gone" / name)
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    for name in NAMES:
        with pytest.raises(FileError, match="may write to"):
            video.check_place(tmp_path / name)


@pytest.mark.parametrize("fps", [0, -1, 121, float("nan"), float("inf"), "16", True, None])
def test_an_impossible_speed_is_refused(tmp_path: Path, fps: Any) -> None:
    with pytest.raises(RequestError, match="it must be 1 to 120"):
        video.save_video(clip(1), tmp_path / "a.mp4", fps=fps)
    assert made(tmp_path) == []


def test_a_gif_refuses_what_browsers_would_slow_down(tmp_path: Path) -> None:
    for call in (
        lambda: video.save_video(clip(1), tmp_path / "a.gif", fps=60),
        lambda: video.check_place(tmp_path / "a.gif", fps=60),
    ):
        with pytest.raises(RequestError, match="at most 50"):
            call()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), "no frame"),
        (np.zeros((2, 4, 4), np.uint8), "Frame 1 is"),
        (np.zeros((2, 4, 4, 4), np.uint8), "Frame 1 is"),
        (np.zeros((2, 0, 4, 3), np.uint8), "Frame 1 is"),
        (np.zeros((2, 4, 4, 3), np.float32), "float32"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], "Frame 2 is"),
        ([1, 2], "Frame 1 is"),
        (itertools.repeat(np.zeros((2, 2, 3), np.uint8)), "more than 4096 frames"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, name: str, frames: Any, said: str) -> None:
    if isinstance(frames, itertools.repeat):
        frames = iter(frames) if name == "a.mp4" else itertools.repeat(np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(RequestError, match=said):
        video.save_video(frames, tmp_path / name, fps=16)
    assert made(tmp_path) == []


def test_without_an_encoder_another_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4, "_ENCODER", "libnothing")
    for call in (lambda p: video.check_place(p), lambda p: video.save_video(clip(1), p, fps=16)):
        with pytest.raises(RequestError, match=r"no H\.264 encoder.*\.webp or \.gif"):
            call(tmp_path / "a.mp4")
    assert made(tmp_path) == []


def test_a_record_above_the_cap_is_refused_before_encoding(tmp_path: Path) -> None:
    for name in NAMES:
        with pytest.raises(RequestError, match="too long"):
            video.save_video(clip(2), tmp_path / name, fps=16, record=record(prompt="x" * 1_000_000))
    assert made(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_reading_stops_at_the_limit(tmp_path: Path, name: str) -> None:
    video.save_video(clip(9), tmp_path / name, fps=16)
    assert len(video.read_frames(tmp_path / name, 4)) == 4


def spoiled(how: str) -> Callable[[bytes], bytes]:
    return {
        "empty": lambda data: b"",
        "cut": lambda data: data[: len(data) // 3],
        "noise": lambda data: data[:16] + bytes(np.random.default_rng(1).integers(0, 255, 5000, dtype=np.uint8)),
        "text": lambda data: b"not a video at all",
    }[how]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["empty", "cut", "noise", "text"])
def test_what_cannot_be_read_is_one_clear_error(tmp_path: Path, name: str, how: str) -> None:
    path = tmp_path / name
    video.save_video(clip(9), path, fps=16, record=record())
    path.write_bytes(spoiled(how)(path.read_bytes()))
    try:
        frames = video.read_frames(path)
    except FileError as error:
        assert str(path) in str(error)
    else:
        assert how == "cut" and 0 < len(frames) < 9, "what is whole of it may be shown"
    with pytest.raises(FileError, match="no file"):
        video.read_frames(tmp_path / "gone.mp4")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    video.save_video(clip(2), path, fps=16)
    data = bytearray(path.read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(FileError, match="more pixels than can be used"):
        video.read_frames(path)


def test_frames_that_memory_cannot_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video.save_video(clip(9), tmp_path / "a.mp4", fps=16)
    monkeypatch.setattr(video, "_MAX_BYTES", 3 * 48 * 64 * 3)
    with pytest.raises(FileError, match="more than can be held in memory"):
        video.read_frames(tmp_path / "a.mp4")
    assert len(video.read_frames(tmp_path / "a.mp4", 3)) == 3


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.mp4"])
@pytest.mark.parametrize("fps", [8, 24])
def test_frames_that_are_alike_come_back_as_often_as_they_were(tmp_path: Path, name: str, fps: int) -> None:
    """Animations keep one of them, shown for longer; one that is alone is shown for ever."""
    few, order = clip(3), [0, 0, 1, 1, 1, 2, 0, 0, 0]
    for frames in (few[order], few[[1] * 5]):
        said = record(fps=float(fps), frames=len(frames))
        video.save_video(frames, tmp_path / name, fps=fps, record=said, force=True)
        back = video.read_frames(tmp_path / name)
        assert len(back) == len(frames) and min(psnr(a, b) for a, b in zip(back, frames, strict=True)) > 25
        assert video.read_chosen(tmp_path / name, range)[1] == len(frames)
    video.save_video(few[order], tmp_path / name, fps=fps, force=True)
    kept = len(video.read_frames(tmp_path / name))
    assert kept == (9 if name == "a.mp4" else 4), "without a record nothing is known of those that are not there"
