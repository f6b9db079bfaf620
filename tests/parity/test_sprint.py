"""SANA-Sprint against diffusers' pipelines: tiny random weights, float32, folders that diffusers saved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import frolic
from frolic.models.sana import SanaTransformer, keymap
from frolic.models.sana.variants import VARIANTS
from frolic.sampling.prediction import flow, trig_from_flow, trig_level
from frolic.sampling.schedules import scm_sigmas, time_sigmas
from frolic.sampling.solvers import SAMPLERS
from stock import assert_same, diffusers, draw, stock_pipeline
from toys import toy_velocity

SIZE = 64
PROMPT = "a red fox in the snow"
SPRINT = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}


def sprint(folder, kind="SanaSprintPipeline", **changes):
    """diffusers' pipeline, and ours from the folder that it saved."""
    pipe = stock_pipeline(folder, kind=kind, scheduler=diffusers.SCMScheduler(), **SPRINT | changes)
    pipe.save_pretrained(folder / "saved")
    return pipe, frolic.load(folder / "saved")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return sprint(tmp_path_factory.mktemp("sprint"))


def theirs(pipe, prompt, seeds, steps, **options) -> Tensor:
    middle = 1.3 if steps == 2 and "timesteps" not in options else None
    options = {"intermediate_timesteps": middle, "use_resolution_binning": False, **options}
    return draw(pipe, prompt, seeds, num_inference_steps=steps, height=SIZE, width=SIZE, **options)


@pytest.mark.parametrize("scale", [4.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_pictures_in_a_few_steps(both, steps, scale):
    pipe, ours = both
    prompts = [PROMPT, "a cat"]
    options = {"guidance_scale": scale}
    got = ours(prompts, seed=7, steps=steps, height=SIZE, width=SIZE, output="tensor", **options).pixels
    assert_same(got, theirs(pipe, prompts, [7, 8], steps, **options))


def test_nothing_but_a_prompt(tmp_path):
    """Steps, guidance, sampler, instruction and the table of sizes are those of their call."""
    pipe, ours = sprint(tmp_path, stages=6, sample_size=32)
    result = ours(PROMPT, seed=3, output="tensor", width=64, height=64, binning=False)
    assert (result.request.steps, result.request.sampler, result.request.guidance_scale) == (2, "scm", 4.5)
    assert ours.defaults.bin_base == 1024
    assert_same(result.pixels, theirs(pipe, PROMPT, [3], 2))


def test_times_of_ones_own(both):
    pipe, ours = both
    got = ours(PROMPT, seed=7, times=(1.1, 0.4), height=SIZE, width=SIZE, output="tensor").pixels
    assert_same(got, theirs(pipe, PROMPT, [7], 2, max_timesteps=1.1, intermediate_timesteps=0.4))
    # Its own times are of no use in diffusers: the pipeline does not hand their number on.
    with pytest.raises(TypeError, match="num_inference_steps"):
        theirs(pipe, PROMPT, [7], 2, timesteps=[1.1, 0.4, 0.0], max_timesteps=None)


@pytest.fixture(scope="module")
def from_picture(tmp_path_factory):
    return sprint(tmp_path_factory.mktemp("img2img"), "SanaSprintImg2ImgPipeline")


@pytest.mark.parametrize(("steps", "strength"), [(1, 1.0), (2, 0.5), (2, 1.0), (4, 0.6), (4, 0.25), (3, 0.7)])
def test_starting_from_a_picture(from_picture, steps, strength):
    pipe, ours = from_picture
    y, x = torch.meshgrid(torch.linspace(0, 5, SIZE), torch.linspace(0, 4, SIZE), indexing="ij")
    picture = torch.stack([x.sin(), (x * y / 3).cos(), (y - x).sin()])[None] * 0.9
    got = ours(PROMPT, image=picture, strength=strength, steps=steps, seed=9, output="tensor").pixels
    given = {"image": (picture + 1) / 2, "strength": strength}  # diffusers takes pictures from 0 to 1
    assert_same(got, theirs(pipe, PROMPT, [9], steps, **given))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_the_sampler_and_the_conversion_are_the_schedulers(steps):
    scheduler = diffusers.SCMScheduler()
    scheduler.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    times, noises = scheduler.timesteps, torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, 4, 4, generator=noises)
    field = trig_from_flow(lambda x, s: toy_velocity(x, 1000 * s))
    u, drawn = start * 0.5, torch.Generator().manual_seed(1)
    for time in times[:-1]:
        output = 0.5 * field(u / 0.5, time.expand(2))
        u, denoised = scheduler.step(output, time, u, generator=drawn, return_dict=False)
    sampler, sigmas = SAMPLERS["scm"], scm_sigmas(steps, 3.0)
    assert torch.allclose(sigmas[1:-1].float(), trig_level(times[1:-1]), atol=1e-6)
    again = torch.Generator().manual_seed(1)
    denoise = flow(lambda x, s: toy_velocity(x, 1000 * s), sampler.schedule().timesteps)
    *_, last = sampler.steps(
        denoise, sampler.start(start, sigmas[0]), sigmas, lambda step: torch.randn(start.shape, generator=again)
    )
    # Their first time is 4e-6 over a right angle, and ours is one.
    assert (last.x - denoised / 0.5).abs().max() < 2e-5


def test_times_over_a_right_angle_are_all_noise():
    assert float(time_sigmas([1.5708])[0]) == 1.0 == float(scm_sigmas(4, 1.0)[0])


@pytest.mark.parametrize("variant", ["sprint-0.6b", "sprint-1.6b"])
def test_the_published_names_and_shapes_of_both_layouts(variant):
    config = VARIANTS[variant]
    with torch.device("meta"):
        ours = SanaTransformer(config).state_dict()
        their_own = diffusers.SanaTransformer2DModel.from_config(config.to_json()).state_dict()
    published, original = keymap.diffusers_keys(config), keymap.original_keys(config)
    assert {k: v.shape for k, v in published.save(ours).items()} == {k: v.shape for k, v in their_own.items()}
    for layout, state in ((published, their_own), (original, original.save(ours))):
        assert {k: v.shape for k, v in layout.load(state).items()} == {k: v.shape for k, v in ours.items()}
    authors = original.save(ours)
    for name, shape in {
        "cfg_embedder.mlp.0.weight": (config.width, 256),
        "cfg_embedder.mlp.2.bias": (config.width,),
        "blocks.0.attn.q_norm.weight": (config.width,),
        "blocks.0.cross_attn.k_norm.weight": (config.width,),
    }.items():
        assert authors[name].shape == shape
    # A head of the training loss is in the authors' files and nowhere else.
    assert original.drops("logvar_linear.weight") and not published.knows("logvar_linear.weight")
