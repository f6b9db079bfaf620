"""compat="native" from prompt to picture, against a plain loop that does what SANA's authors' code does.

The modules are diffusers' and transformers'. What is the authors': double quotes in the instruction, case as it is, the
prompt's mask for both branches of guidance, padding of the negative prompt that is read, noise levels and timesteps in
float32, and an Euler sampler that knows no shift but 3.
"""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import pytest
import torch

import frolic
from stock import DPM, assert_same, diffusers, draw, stock_pipeline

LINES = inspect.signature(diffusers.SanaPipeline.__call__).parameters["complex_human_instruction"].default
INSTRUCTION = "\n".join(LINES).replace("'Enhanced prompt'", '"Enhanced prompt"')
TOKENS, GUIDANCE, SIZE = 300, 4.5, 64
PROMPT, NEGATIVE = " A red FOX in the snow ", "two DOGS"
SHIFT = 6.0


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    scheduler = diffusers.DPMSolverMultistepScheduler(**DPM | {"flow_shift": SHIFT})
    # As in Gemma 2, the window is wider than the padding: nobody defines what a token sees that sees nothing.
    pipe = stock_pipeline(folder, scheduler=scheduler, window=512)
    pipe.tokenizer.padding_side = "right"
    pipe.save_pretrained(folder / "saved")
    return pipe, frolic.load(folder / "saved", compat="native")


def states(pipe, text, places):
    read = pipe.tokenizer(text, padding="max_length", max_length=places, truncation=True, return_tensors="pt")
    return pipe.text_encoder(read.input_ids, attention_mask=read.attention_mask)[0], read.attention_mask


def authors(pipe, prompt, negative, seed, steps, sampler):
    """[1, 3, H, W] from 0 to 1."""
    places = len(pipe.tokenizer(INSTRUCTION).input_ids) + TOKENS - 2
    chosen = [0, *range(places - TOKENS + 1, places)]
    cond, mask = (tensor[:, chosen] for tensor in states(pipe, INSTRUCTION + prompt.strip(), places))
    uncond, _ = states(pipe, negative, TOKENS)

    def velocity(x, level):
        t = (level.float() * 1000).long().expand(2)
        texts = {"encoder_hidden_states": torch.cat([uncond, cond]), "encoder_attention_mask": mask.repeat(2, 1)}
        away, towards = pipe.transformer(torch.cat([x, x]), timestep=t, return_dict=False, **texts)[0].chunk(2)
        return away + GUIDANCE * (towards - away)

    x = torch.randn(1, 8, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(seed))
    x = euler(velocity, x, steps) if sampler == "euler" else multistep(velocity, x, steps)
    pixels = pipe.vae.decode(x / pipe.vae.config.scaling_factor, return_dict=False)[0]
    return (pixels / 2 + 0.5).clamp(0, 1)


def multistep(velocity, x, steps):
    """DPM-Solver++(2M), arXiv 2211.01095, algorithm 2."""
    uniform = 1.0 - torch.linspace(1.0, 1.0 / 1000, steps + 1)
    levels = (SHIFT * uniform / (1.0 + (SHIFT - 1.0) * uniform)).flip(0)

    def half_log_snr(level):
        return math.log(1 - level) - math.log(level)

    before, last_h = None, None
    for level, following in pairwise(levels):
        s, t = float(level), float(following)
        data = x - s * velocity(x, level)
        if t == 0:
            return data
        h = half_log_snr(t) - half_log_snr(s)
        ahead = data if before is None else data + h / last_h / 2 * (data - before)
        x = t / s * x - (1 - t) * math.expm1(-h) * ahead
        before, last_h = data, h
    raise AssertionError("the levels end in 0")


def euler(velocity, x, steps):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    for t, level in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = scheduler.step(velocity(x, level), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("negative", ["", NEGATIVE])
@pytest.mark.parametrize(("sampler", "steps"), [("dpmpp_2m", 20), ("dpmpp_2m", 5), ("euler", 28)])
def test_pictures_are_the_authors(both, sampler, steps, negative):
    pipe, ours = both
    options = {"guidance_scale": GUIDANCE, "negative_prompt": negative}
    got = ours(PROMPT, seed=5, steps=steps, sampler=sampler, output="tensor", **options).pixels
    assert_same(got, authors(pipe, PROMPT, negative, 5, steps, sampler))
    if sampler == "dpmpp_2m":
        size = {"height": SIZE, "width": SIZE, "num_inference_steps": steps, "use_resolution_binning": False}
        assert ((got + 1) / 2 - draw(pipe, PROMPT, [5], **options, **size)).abs().max() > 0.01


def test_several_prompts(both):
    pipe, ours = both
    prompts = [PROMPT, "A cat, " * 60, ""]
    got = ours(prompts, seed=5, steps=20, negative_prompt=NEGATIVE, guidance_scale=GUIDANCE, output="tensor").pixels
    expected = [authors(pipe, prompt, NEGATIVE, 5 + row, 20, "dpmpp_2m") for row, prompt in enumerate(prompts)]
    assert_same(got, torch.cat(expected))
