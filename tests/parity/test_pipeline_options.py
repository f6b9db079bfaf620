"""What a model folder or a request can ask for besides the defaults, against diffusers' pipelines, 20 steps each."""

from __future__ import annotations

import json

import pytest
import torch

import frolic
from stock import DPM, assert_same, diffusers, draw, stock_pipeline

PROMPTS = ["a cat", "TWO dogs under the moon, a red fox in the snow, " * 3, ""]
SQUARE = {"height": 64, "width": 64}


def made(folder, **changes):
    """diffusers' pipeline, and ours from the folder that it saved."""
    pipe = stock_pipeline(folder, **changes)
    pipe.save_pretrained(folder / "saved")
    return pipe, frolic.load(folder / "saved")


def compare(pipe, ours, prompts, seed=7, theirs=None, **options):
    """Draw ``prompts`` with both; ``theirs`` is what only diffusers needs to be told."""
    count = 1 if isinstance(prompts, str) else len(prompts)
    result = ours(
        prompts, seed=seed, output="tensor", **({"binning": False} if ours.defaults.bin_base else {}), **options
    )
    shared = {key: options[key] for key in ("height", "width", "guidance_scale", "negative_prompt") if key in options}
    if "steps" in options:
        shared["num_inference_steps"] = options["steps"]
    expected = draw(pipe, prompts, range(seed, seed + count), use_resolution_binning=False, **shared, **(theirs or {}))
    assert_same(result.pixels, expected)
    return result.pixels


@pytest.mark.parametrize(
    "changes",
    [
        {"qk_norm": "rms_norm_across_heads"},
        {"interpolation_scale": 1.0, "sample_size": 64},
        {"interpolation_scale": 2.0, "sample_size": 128},
        {"patch_size": 2, "qk_norm": "rms_norm_across_heads", "interpolation_scale": 1.0},
        {"num_cross_attention_heads": 1, "cross_attention_head_dim": 64},
        {"timestep_scale": 0.001},
        {"mlp_ratio": 3.1, "attention_bias": True},
    ],
    ids=["qk_norm", "2k", "4k", "patch", "one_head", "teacher", "ratio"],
)
def test_transformers(tmp_path, changes):
    pipe, ours = made(tmp_path, **changes)
    pixels = compare(pipe, ours, "a cat", **SQUARE)
    batch = compare(pipe, ours, PROMPTS, height=32, width=96, negative_prompt="two dogs")
    assert pixels.shape[-2:] != batch.shape[-2:]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 6.0}),
        ("DPMSolverMultistepScheduler", {"solver_order": 1}),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}),
        ("DPMSolverMultistepScheduler", {"solver_type": "heun"}),
        ("DPMSolverMultistepScheduler", {"solver_type": "heun", "solver_order": 3, "flow_shift": 6.0}),
        ("DPMSolverMultistepScheduler", {"flow_shift": 6.0, "lower_order_final": False}),
        ("DPMSolverMultistepScheduler", {"euler_at_final": True, "timestep_spacing": "trailing"}),
    ],
)
def test_schedulers(tmp_path, name, settings):
    scheduler = getattr(diffusers, name)(**(DPM if name.startswith("DPM") else {}) | settings)
    pipe, ours = made(tmp_path, scheduler=scheduler)
    compare(pipe, ours, PROMPTS[:2], **SQUARE)
    compare(pipe, ours, "a cat", steps=7, **SQUARE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return made(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (32, 160), (128, 96)])
@pytest.mark.parametrize(
    "options", [{}, {"guidance_scale": 1.0}, {"guidance_scale": 0.0}, {"negative_prompt": "A CAT"}]
)
def test_sizes_and_guidance(plain, size, options):
    compare(*plain, PROMPTS, height=size[0], width=size[1], **options)


@pytest.fixture(scope="module")
def perturbed(tmp_path_factory):
    return made(tmp_path_factory.mktemp("perturbed"), kind="SanaPAGPipeline")


@pytest.mark.parametrize("scale", [4.5, 1.0])
@pytest.mark.parametrize("layers", [(0,), (1,), (0, 2)])
def test_perturbed_attention_guidance(perturbed, layers, scale):
    pipe, ours = perturbed
    pipe.set_pag_applied_layers(
        [f"transformer_blocks.{layer}" for layer in layers],
        pag_attn_processors=tuple(pipe._pag_attn_processors),
    )
    drawn = [
        compare(
            pipe,
            ours,
            PROMPTS[:2],
            pag_scale=pag,
            pag_layers=layers,
            guidance_scale=scale,
            theirs={"pag_scale": pag},
            **SQUARE,
        )
        for pag in (2.0, 0.0)
    ]
    assert not torch.allclose(*drawn, atol=0.01)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    return made(tmp_path_factory.mktemp("controlled"), kind="SanaControlNetPipeline")


def drawing(height, width):
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((3, 5, width - 10, height - 4), outline="white", width=2)
    pen.line((0, 0, width, height // 2), fill=(200, 60, 30), width=3)
    return picture


@pytest.mark.parametrize("guidance", [4.5, 1.0])
@pytest.mark.parametrize("scale", [1.0, 0.4, 2.0])
def test_controlnet(controlled, scale, guidance):
    options = {"guidance_scale": guidance, "height": 64, "width": 96}
    picture = drawing(64, 96)
    theirs = {"control_image": picture, "controlnet_conditioning_scale": scale}
    pixels = compare(*controlled, PROMPTS[:2], control=picture, control_scale=scale, theirs=theirs, **options)
    alone = controlled[1](PROMPTS[:2], seed=7, output="tensor", **options).pixels
    assert not torch.allclose(pixels, alone, atol=0.01), "the control acts"


def test_a_controlnet_beside_a_model(controlled, tmp_path):
    pipe, whole = controlled
    pipe.controlnet.save_pretrained(tmp_path / "net")
    parts = {name: part for name, part in pipe.components.items() if name != "controlnet"}
    diffusers.SanaPipeline(**parts).save_pretrained(tmp_path / "model")
    ours = frolic.load(tmp_path / "model", controlnet=tmp_path / "net")
    one, other = (
        loaded("a cat", seed=1, steps=2, control=drawing(64, 64), output="tensor").pixels for loaded in (ours, whole)
    )
    assert torch.equal(one, other)


def test_a_controlnet_of_a_model_with_positions(tmp_path):
    pipe, ours = made(tmp_path, kind="SanaControlNetPipeline", interpolation_scale=2.0)
    compare(pipe, ours, "a cat", control=drawing(64, 64), theirs={"control_image": drawing(64, 64)}, **SQUARE)


def test_what_diffusers_saves_of_such_pipelines_is_understood(perturbed, controlled):
    names = [
        json.loads((ours.card.files[0].parents[1] / "model_index.json").read_text())["_class_name"]
        for _, ours in (perturbed, controlled)
    ]
    assert names == ["SanaPAGPipeline", "SanaControlNetPipeline"]
    assert [ours.has_controlnet for _, ours in (perturbed, controlled)] == [False, True]
