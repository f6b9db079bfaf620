"""Clips as files."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from frolic.errors import FileError, RequestError, ResourceError
from frolic.io import video
from frolic.io.media import read_record
from frolic.io.video import read_clip, read_clip_record, save_clip

RECORD = {
    "schema": 1,
    "version": "0",
    "shift": 5.0,
    "model": {"name": "m", "version": "", "family": "wan", "hash": "0" * 64},
    "request": {
        "prompt": "a rockét\ntaking off", "negative_prompt": "", "seed": 2**62 + 1, "steps": 4, "sampler": "unipc",
        "guidance_scale": 4.0, "width": 48, "height": 32, "frames": 17, "fps": 8.0,
    },
}  # fmt: skip


def clip(frames: int = 17, height: int = 32, width: int = 48) -> np.ndarray:
    """A bright square that moves to the right."""
    made = np.full((frames, height, width, 3), (30, 60, 120), np.uint8)
    for number in range(frames):
        made[number, 8:24, number : number + 16] = (230, 200, 40)
    return made


@pytest.mark.parametrize(("name", "off"), [("a.mp4", 4.0), ("a.webp", 0.0), ("a.gif", 4.0)])
def test_pixels_time_and_record_come_back(tmp_path: Path, name: str, off: float) -> None:
    path = tmp_path / name
    save_clip(clip(), path, fps=8, record=RECORD)
    frames, fps = read_clip(path)
    assert frames.shape == (17, 32, 48, 3) and abs(fps - 8) < 0.05
    assert abs(frames.astype(int) - clip()).mean() <= off
    assert read_clip_record(path) == RECORD
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_an_mp4_is_what_browsers_play(tmp_path: Path) -> None:
    save_clip(clip(), tmp_path / "a.mp4", fps=8, record=RECORD)
    raw = (tmp_path / "a.mp4").read_bytes()
    assert raw.index(b"moov") < raw.index(b"mdat"), "playing can begin before all is here"
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 17)
        assert stream.duration * stream.time_base == 17 / 8 and abs(container.duration / 1e6 - 17 / 8) < 1e-3
        assert stream.codec_context.colorspace == 1, "BT.709"


def test_the_record_survives_another_program(tmp_path: Path) -> None:
    """A remux that keeps metadata, as ffmpeg's ``-c copy`` does."""
    save_clip(clip(), tmp_path / "a.mp4", fps=8, record=RECORD)
    with av.open(str(tmp_path / "a.mp4")) as given, av.open(str(tmp_path / "b.mp4"), "w") as copied:
        copied.metadata.update(given.metadata)
        stream = copied.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copied.mux(packet)
    assert read_clip_record(tmp_path / "b.mp4") == RECORD


def test_frames_as_pngs(tmp_path: Path) -> None:
    save_clip(clip(3), tmp_path / "frames", fps=8, record=RECORD)
    names = sorted(entry.name for entry in (tmp_path / "frames").iterdir())
    assert names == ["0000.png", "0001.png", "0002.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "frames" / names[2])), clip(3)[2])
    assert read_clip_record(tmp_path / "frames" / names[0]) == read_record(tmp_path / "frames" / names[1]) == RECORD
    with pytest.raises(FileError, match="new folder"):
        save_clip(clip(3), tmp_path / "frames", fps=8)


def test_odd_sides_and_single_frames(tmp_path: Path) -> None:
    save_clip(clip(1, 33, 47), tmp_path / "a.mp4", fps=8)
    frames, _ = read_clip(tmp_path / "a.mp4")
    assert frames.shape == (1, 34, 48, 3)
    assert abs(frames[0, :33, :47].astype(int) - clip(1, 33, 47)[0]).mean() < 4
    save_clip(clip(1, 33, 47), tmp_path / "a.webp", fps=8)
    assert read_clip(tmp_path / "a.webp")[0].shape == (1, 33, 47, 3)


def test_odd_rates(tmp_path: Path) -> None:
    save_clip(clip(10), tmp_path / "a.mp4", fps=24000 / 1001)
    assert abs(read_clip(tmp_path / "a.mp4")[1] - 23.976) < 1e-3


@pytest.mark.parametrize("name", ["a.avi", "a.png", "a.mp4.txt"])
def test_other_endings(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"end it in \.mp4, \.webp, \.gif"):
        save_clip(clip(2), tmp_path / name, fps=8)
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("mine")
    with pytest.raises(FileError):
        save_clip(clip(2), tmp_path / "a.mp4", fps=8)
    assert (tmp_path / "a.mp4").read_text() == "mine"
    save_clip(clip(2), tmp_path / "a.mp4", fps=8, force=True)
    assert read_clip(tmp_path / "a.mp4")[0].shape[0] == 2


@pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a.gif", "frames"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video, "_mp4", full)
    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr("frolic.io.video.encode_png", full)
    with pytest.raises(ResourceError):
        save_clip(clip(2), tmp_path / name, fps=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a.gif"])
def test_damaged_and_foreign_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_clip(clip(3), path, fps=8)
    with pytest.raises(FileError, match="does not say how it was made"):
        read_clip_record(path)
    path.write_bytes(b"\0" * 1000)
    for read in (read_clip_record, read_clip):
        with pytest.raises(FileError):
            read(path)
    path.unlink()
    with pytest.raises(FileError):
        read_clip_record(path)


def test_a_record_that_is_none(tmp_path: Path) -> None:
    for text in ("[]", "{", json.dumps({"schema": 99})):
        path = tmp_path / "a.gif"
        Image.new("RGB", (4, 4)).save(path, comment=text.encode())
        with pytest.raises(FileError, match=r"damaged|version 99"):
            read_clip_record(path)
    with pytest.raises(RequestError, match="too long"):
        save_clip(clip(2), tmp_path / "b.gif", fps=8, record={"schema": 1, "x": "y" * 1_000_001})
