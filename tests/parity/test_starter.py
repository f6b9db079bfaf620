"""The shipped folder is a stock one: diffusers loads it by name alone and draws the same picture."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import torch

import frolic

diffusers = pytest.importorskip("diffusers")

STARTER = Path(str(resources.files("frolic"))) / "starter" / "model"
PROMPTS = ["a red panda", "a fox on a blue background"]


def test_the_same_picture_in_diffusers():
    latents = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(11))
    theirs = diffusers.SanaPipeline.from_pretrained(STARTER, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    ours = frolic.load("starter", dtype="float32")
    expected = theirs(
        PROMPTS,
        num_inference_steps=ours.defaults.steps,
        guidance_scale=ours.defaults.guidance_scale,
        height=ours.defaults.height,
        width=ours.defaults.width,
        latents=latents.clone(),
        output_type="pt",
        use_resolution_binning=False,
        complex_human_instruction=None,
        clean_caption=False,
        max_sequence_length=ours.defaults.max_tokens,
    ).images
    got = (ours(PROMPTS, latents=latents, output="tensor").pixels + 1) / 2
    error = (got - expected).square().mean(dim=(1, 2, 3))
    psnr = 10 * torch.log10(1 / error.clamp_min(1e-12))
    assert expected.std() > 0.05
    assert bool((psnr > 40).all()), psnr
