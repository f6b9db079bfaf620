"""The video starter that ships with frolic: it moves, goes on from a picture, and is stock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import frolic
from frolic.plan import find_model

BYTES = 12_000_000


@pytest.fixture(scope="module")
def pipe() -> frolic.Pipeline:
    return frolic.load("starter-video", device="cpu", dtype="float32")


def test_it_is_small_and_shares_the_text_encoder() -> None:
    folder = find_model("starter-video")
    own = [path for part in ("vae", "transformer", "transformer_2") for path in (folder / part).rglob("*")]
    assert sum(path.stat().st_size for path in own) < BYTES
    for part in ("text_encoder", "tokenizer"):
        names = sorted(path.name for path in (folder / part).iterdir())
        assert names == sorted(path.name for path in (find_model("starter") / part).iterdir())
        for name in names:
            assert (folder / part / name).read_bytes() == (find_model("starter") / part / name).read_bytes()


def test_what_is_asked_to_move_moves(pipe: frolic.Pipeline) -> None:
    left, right = (pipe(f"a red car moving to the {way}", seed=2).videos[0].astype(float) for way in ("left", "right"))
    assert left.shape == right.shape == (17, 96, 96, 3)

    def centre(frame: np.ndarray) -> float:
        """Where what is not the ground lies, from left to right."""
        weight = np.abs(frame - frame[0, 0]).sum(axis=2)
        return float((weight.sum(axis=0) * np.arange(96)).sum() / weight.sum())

    assert centre(left[-1]) < centre(left[0]) - 8
    assert centre(right[-1]) > centre(right[0]) + 8


def test_it_goes_on_from_a_picture(pipe: frolic.Pipeline) -> None:
    kept = []
    things = ["a strawberry", "a dog", "a rocket", "a house", "a robot", "a sunflower"]
    for thing, picture in zip(things, frolic.load("starter")(things, seed=1, steps=12).images, strict=True):
        frame = picture.resize((96, 96), Image.Resampling.LANCZOS)
        clip = pipe(f"{thing} growing", seed=1, image=frame, steps=8).videos[0]
        error = np.square(clip[0].astype(float) - np.asarray(frame, float)).mean()
        kept.append(10 * np.log10(255**2 / error))
        assert np.abs(clip[-1].astype(float) - clip[0]).mean() > 2
    assert np.mean(kept) > 30 and min(kept) > 26, kept


def test_the_same_frames_in_diffusers(pipe: frolic.Pipeline) -> None:
    diffusers = pytest.importorskip("diffusers")
    folder = Path(find_model("starter-video"))
    theirs: Any = diffusers.WanPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    count = pipe.vae.latent_frames(17)
    latents = torch.randn(1, pipe.vae.config.latent_channels, count, 6, 6, generator=torch.Generator().manual_seed(5))
    expected = theirs(
        "a pizza spinning", "", num_frames=17, height=96, width=96, num_inference_steps=8,
        guidance_scale=pipe.defaults.guidance_scale, latents=latents.clone(), output_type="pt",
    ).frames  # fmt: skip
    got = pipe("a pizza spinning", latents=latents, steps=8, output="tensor").pixels
    assert got is not None and expected.std() > 0.05
    error = ((got + 1) / 2 - expected.transpose(1, 2)).square().mean()
    assert 10 * torch.log10(1 / error) > 40


def test_of_two_experts_one_may_go_unguided() -> None:
    """Projected guidance of the other one alone, for several prompts at once."""
    pipe = frolic.load("starter-video")
    asked = {"seed": 1, "steps": 2, "apg": True, "guidance_scale": 1.0, "guidance_scale_2": 4.0, "output": "tensor"}
    pixels = pipe(["a cat", "a dog"], **asked).pixels
    assert pixels is not None and pixels.shape[0] == 2 and bool(pixels.isfinite().all())
