"""What a drawing gives back: videos and pictures, saved with what made them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clips import clip, timing
from frolic.errors import RequestError
from frolic.io.media import read_record
from frolic.io.video import read_frames
from frolic.pipeline.result import ModelCard, Result, to_frames, to_image
from frolic.request import Request
from frolic.spec import SamplingDefaults

DEFAULTS = SamplingDefaults(
    height=48, width=64, steps=4, guidance_scale=5.0, sampler="unipc", shift=3.0, max_tokens=32, frames=9, fps=12.0
)


@pytest.fixture
def result(tmp_path: Path) -> Result:
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")
    request, notes = Request.of("a rocket", seed=5, num_images=2).completed(DEFAULTS, 16)
    return Result(
        images=(),
        pixels=None,
        request=request,
        seconds=1.0,
        notes=notes,
        model=ModelCard("wan", "", "wan", (weights,)),
        settings={"shift": 3.0},
        batches=((0, 1), (0, 1)),
        tokens=8,
        videos=(clip(9), clip(9, seed=1)),
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a/%04d.png"])
def test_a_video_is_saved_as_what_its_name_says(tmp_path: Path, result: Result, name: str) -> None:
    assert result.save(tmp_path / name, 1) == tmp_path / name
    assert read_frames(tmp_path / name).shape == (9, 48, 64, 3)
    record = read_record(tmp_path / (name if "%" not in name else "a/0001.png"))
    assert record == result.record(1)
    said = record["request"]
    assert (said["seed"], said["frames"], said["fps"]) == (6, 9, 12.0)


def test_it_plays_at_its_own_speed(tmp_path: Path, result: Result) -> None:
    result.save(tmp_path / "a.mp4", metadata=False)
    assert timing(tmp_path / "a.mp4")[0] == 9 / 12
    with pytest.raises(RequestError, match="not the name of a video"):
        result.save(tmp_path / "a.png")


def test_a_picture_is_saved_as_before(tmp_path: Path, result: Result) -> None:
    picture = Image.fromarray(clip(1)[0])
    one = replace(result, videos=(), images=(picture, picture))
    one.save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), clip(1)[0])


def test_pixels_become_frames_as_they_become_pictures() -> None:
    pixels = torch.linspace(-1.2, 1.2, 3 * 5 * 4 * 6).reshape(3, 5, 4, 6)
    frames = to_frames(pixels)
    assert frames.shape == (5, 4, 6, 3) and frames.dtype == np.uint8
    for number in range(5):
        assert np.array_equal(frames[number], np.asarray(to_image(pixels[:, number])))
    assert frames.min() == 0 and frames.max() == 255
