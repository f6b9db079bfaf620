"""Sharp edges, time and record of a video, and records that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clips import timing
from frolic.errors import FileError, RequestError
from frolic.io import animation
from frolic.io.media import read_record
from frolic.io.video import read_frames, save_video

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


def square(frames: int = 17, height: int = 32, width: int = 48) -> np.ndarray:
    """A bright square that moves to the right."""
    made = np.full((frames, height, width, 3), (30, 60, 120), np.uint8)
    for number in range(frames):
        made[number, 8:24, number : number + 16] = (230, 200, 40)
    return made


@pytest.mark.parametrize(("name", "off"), [("a.mp4", 4.0), ("a.webp", 0.0), ("a.gif", 4.0), ("frames/%04d.png", 0.0)])
def test_pixels_time_and_record_come_back(tmp_path: Path, name: str, off: float) -> None:
    path = tmp_path / name
    save_video(square(), path, fps=8, record=RECORD)
    frames = read_frames(path)
    assert frames.shape == (17, 32, 48, 3)
    assert abs(frames.astype(int) - square()).mean() <= off
    assert read_record(path if "%" not in name else path.with_name("0001.png")) == RECORD
    if name == "a.mp4":
        assert timing(path)[0] == 17 / 8
    assert [entry.name for entry in tmp_path.iterdir()] == [Path(name).parts[0]]


def test_odd_sides_of_a_single_frame(tmp_path: Path) -> None:
    save_video(square(1, 33, 47), tmp_path / "a.mp4", fps=8)
    frames = read_frames(tmp_path / "a.mp4")
    assert frames.shape == (1, 34, 48, 3)
    assert abs(frames[0, :33, :47].astype(int) - square(1, 33, 47)[0]).mean() < 4
    save_video(square(1, 33, 47), tmp_path / "a.webp", fps=8)
    assert read_frames(tmp_path / "a.webp").shape == (1, 33, 47, 3)


def test_a_long_webp_is_nearly_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "_LOSSLESS", 17 * 32 * 48 - 1)
    save_video(square(), tmp_path / "a.webp", fps=8, record=RECORD)
    assert 0 < abs(read_frames(tmp_path / "a.webp").astype(int) - square()).mean() < 4
    assert read_record(tmp_path / "a.webp") == RECORD


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "does not say how it was made"),
        ("{", "does not say how it was made"),
        ('{"schema": ', "damaged"),
        (json.dumps(["schema"]), "does not say how it was made"),
        (json.dumps({"x": '"schema"'}), "does not say how it was made"),
        (json.dumps({"x": {"schema": 1}}), "damaged"),
        (json.dumps({"schema": 99}), "version 99"),
    ],
)
def test_a_record_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.gif"
    Image.new("RGB", (4, 4)).save(path, comment=text.encode())
    with pytest.raises(FileError, match=said):
        read_record(path)


def test_a_record_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="too long"):
        save_video(square(2), tmp_path / "b.gif", fps=8, record={**RECORD, "x": "y" * 1_000_001})
    assert not list(tmp_path.iterdir())
