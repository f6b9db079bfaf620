"""Starting from a picture and redrawing a part of one. diffusers has no such pipeline for SANA: its parts are put
together here as its image-to-image and inpainting pipelines for other flow models put them together."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn import functional as F

import frolic
from stock import DPM, STEPS, assert_same, diffusers, stock_pipeline

SIZE = 64
PROMPT, NEGATIVE, GUIDANCE = "a red fox in the snow", "two dogs", 4.5
SCHEDULERS = {
    "dpm": diffusers.DPMSolverMultistepScheduler(**DPM),
    "heun": diffusers.DPMSolverMultistepScheduler(**DPM, solver_type="heun"),
    "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}
INSTRUCTION = inspect.signature(diffusers.SanaPipeline.__call__).parameters["complex_human_instruction"].default


@pytest.fixture(scope="module", params=SCHEDULERS)
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    pipe = stock_pipeline(folder, scheduler=SCHEDULERS[request.param])
    pipe.save_pretrained(folder / "saved")
    return pipe, frolic.load(folder / "saved")


@pytest.fixture(scope="module")
def picture():
    """Smooth waves, [1, 3, H, W]."""
    y, x = torch.meshgrid(torch.linspace(0, 5, SIZE), torch.linspace(0, 4, SIZE), indexing="ij")
    return torch.stack([x.sin(), (x * y / 3).cos(), (y - x).sin()])[None] * 0.9


def noised(scheduler, clean, noise, timestep):
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(clean, timestep[None], noise)
    return scheduler.add_noise(clean, noise, timestep[None])


def theirs(pipe, picture, strength, seed, mask=None):
    """``mask`` [1, 1, H, W] is 1 where the picture is drawn anew. Gives [1, 3, H, W] around [-1, 1]."""
    scheduler, scaling = pipe.scheduler, pipe.vae.config.scaling_factor
    known = pipe.vae.encode(picture).latent * scaling
    noise = torch.randn(known.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        cond, cond_mask, uncond, uncond_mask = pipe.encode_prompt(
            PROMPT, negative_prompt=NEGATIVE, device="cpu", complex_human_instruction=INSTRUCTION
        )
    scheduler.set_timesteps(STEPS)
    skipped = int(max(STEPS - min(STEPS * strength, STEPS), 0))
    scheduler.set_begin_index(skipped)
    timesteps = scheduler.timesteps[skipped:]
    x = noised(scheduler, known, noise, timesteps[0])
    for i, t in enumerate(timesteps):
        velocity = pipe.transformer(
            torch.cat([x, x]),
            encoder_hidden_states=torch.cat([uncond, cond]),
            encoder_attention_mask=torch.cat([uncond_mask, cond_mask]),
            timestep=t.expand(2),
            return_dict=False,
        )[0]
        away, towards = velocity.chunk(2)
        x = scheduler.step(away + GUIDANCE * (towards - away), t, x, return_dict=False)[0]
        if mask is not None:
            anew = F.interpolate(mask, size=x.shape[-2:])
            kept = noised(scheduler, known, noise, timesteps[i + 1]) if i + 1 < len(timesteps) else known
            x = anew * x + (1 - anew) * kept
    pixels = pipe.vae.decode(x / scaling, return_dict=False)[0]
    if mask is not None:
        pixels = mask * pixels + (1 - mask) * picture
    return pixels


def finished(pixels):
    return (pixels / 2 + 0.5).clamp(0, 1)


def asked(ours, **inputs):
    result = ours(
        PROMPT, negative_prompt=NEGATIVE, guidance_scale=GUIDANCE, steps=STEPS, seed=9, output="tensor", **inputs
    )
    return result.pixels


@pytest.mark.parametrize("strength", [1.0, 0.75, 0.6, 0.33, 0.05])
def test_starting_from_a_picture(both, picture, strength):
    pipe, ours = both
    got = asked(ours, image=picture, strength=strength)
    assert_same(got, finished(theirs(pipe, picture, strength, 9)))


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_redrawing_a_part_of_a_picture(both, picture, strength):
    pipe, ours = both
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[:, :, 16:48, 24:] = 1
    got = asked(ours, image=picture, mask=(mask * 2 - 1).expand(1, 3, -1, -1), strength=strength)
    assert_same(got, finished(theirs(pipe, picture, strength, 9, mask)))
    outside = (mask == 0).expand_as(got)
    assert torch.equal(got[outside], picture[outside]), "what stays is the picture itself"


def test_a_picture_that_is_not_the_size_drawn(tmp_path, picture):
    """It lies within the bin where the result, brought to the size that was given, has it again."""
    pipe = stock_pipeline(tmp_path, stages=6, sample_size=16)
    pipe.save_pretrained(tmp_path / "saved")
    ours = frolic.load(tmp_path / "saved")
    given = F.interpolate(picture, size=(200, 300), mode="bilinear")
    got = asked(ours, image=given, strength=0.5)
    assert got.shape == given.shape
    fit = pipe.image_processor.resize_and_crop_tensor
    wide = F.interpolate(given, size=(405, 608), mode="bilinear", antialias=True)
    drawn = theirs(pipe, F.pad(wide, (0, 0, 5, 6), mode="replicate"), 0.5, 9)
    assert_same(got, finished(fit(drawn, 300, 200)))
