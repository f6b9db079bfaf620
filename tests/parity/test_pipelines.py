"""Folders that diffusers and transformers saved, drawn with nothing said but the request: every default is in play.

The default instruction, the table of sizes, the masks and the guidance are those of ``SanaPipeline.__call__``.
"""

from __future__ import annotations

import pytest
import torch

import frolic
from frolic.models.sana.instruction import INSTRUCTIONS
from stock import assert_same, draw, stock_pipeline

LONG = "a red fox in the snow, two dogs under THE MOON, " * 40
PROMPTS = ["a cat", "", LONG, " TWO Dogs, in the SNOW ", "\x07", "User Prompt: a cat -> Enhanced:"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """diffusers' pipeline of a model for 512 pixels, and ours from the folder that it saved."""
    folder = tmp_path_factory.mktemp("stock")
    pipe = stock_pipeline(folder, stages=6, sample_size=16)
    pipe.save_pretrained(folder / "saved")
    return pipe, frolic.load(folder / "saved")


@pytest.mark.parametrize("prompt", PROMPTS, ids=["short", "empty", "long", "upper", "control", "nested"])
def test_every_kind_of_prompt(both, prompt):
    pipe, ours = both
    result = ours(prompt, seed=3, output="tensor")
    assert_same(result.pixels, draw(pipe, prompt, [3], height=512, width=512))
    assert any("tokens" in note for note in result.notes) == (prompt is LONG)


@pytest.mark.parametrize("size", [(500, 700), (512, 512), (1024, 1024), (300, 900), (700, 500), (61, 40)])
def test_every_size_is_drawn_at_its_bin_and_resized(both, size):
    pipe, ours = both
    height, width = size
    result = ours("a red fox", seed=5, height=height, width=width, output="tensor")
    assert result.pixels.shape[-2:] == size
    assert_same(result.pixels, draw(pipe, "a red fox", [5], height=height, width=width))


def test_without_the_table_a_size_is_drawn_as_it_is(both):
    pipe, ours = both
    options = {"height": 128, "width": 224}
    result = ours("a red fox", seed=5, binning=False, output="tensor", **options)
    assert_same(result.pixels, draw(pipe, "a red fox", [5], use_resolution_binning=False, **options))


@pytest.mark.parametrize("negative", ["", "two dogs", LONG], ids=["empty", "short", "long"])
@pytest.mark.parametrize("prompts", [["a cat"], ["a cat", LONG], ["A CAT", ""]])
def test_batches_and_negative_prompts(both, prompts, negative):
    pipe, ours = both
    options = {"negative_prompt": negative, "guidance_scale": 6.0}
    result = ours(prompts, seed=11, output="tensor", **options)
    seeds = range(11, 11 + len(prompts))
    assert_same(result.pixels, draw(pipe, prompts, seeds, height=512, width=512, **options))


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0}], ids=["guided", "unguided"])
def test_two_prompts_of_two_pictures_are_each_drawn_as_alone(both, options):
    """diffusers repeats the texts picture by picture and the masks prompt by prompt, so it draws one at a time."""
    pipe, ours = both
    prompts = ["a cat", LONG]
    size = {"height": 128, "width": 128}
    batch = ours(prompts, seed=20, num_images=2, binning=False, output="tensor", **size, **options).pixels
    size["use_resolution_binning"] = False
    alone = [
        draw(pipe, prompt, [20 + 2 * row, 21 + 2 * row], num_images_per_prompt=2, **size, **options)
        for row, prompt in enumerate(prompts)
    ]
    assert_same(batch, torch.cat(alone))
    together = draw(pipe, prompts, range(20, 24), num_images_per_prompt=2, **size, **options)
    assert (together - torch.cat(alone)).abs().max() > 1e-3, "diffusers has learnt it; compare with a whole batch"


def test_an_instruction_of_ones_own(both):
    pipe, ours = both
    lines = ["Describe", "the picture: "]
    options = {"height": 256, "width": 256}
    for instruction, theirs in (("\n".join(lines), lines), ("", None)):
        result = ours("a cat", seed=3, instruction=instruction, output="tensor", **options)
        assert_same(result.pixels, draw(pipe, "a cat", [3], complex_human_instruction=theirs, **options))
    assert ours.defaults.instruction == INSTRUCTIONS["diffusers"]


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_sharded_folders(both, tmp_path, variant):
    pipe, _ = both
    pipe.save_pretrained(tmp_path / "m", max_shard_size="60KB", variant=variant)
    assert len([*tmp_path.rglob("*-00001-of-*.safetensors")]) == 3, "every part is in pieces"
    ours = frolic.load(tmp_path / "m")
    result = ours("a cat", seed=3, output="tensor")
    assert_same(result.pixels, draw(pipe, "a cat", [3], height=512, width=512))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_of_a_half_precision_variant(tmp_path, dtype):
    pipe = stock_pipeline(tmp_path, stages=6, sample_size=16)
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder):
        for p in part.parameters():
            p.copy_(p.to(dtype))
    expected = draw(pipe, "a cat", [3], height=512, width=512)
    variant = "fp16" if dtype is torch.float16 else "bf16"
    pipe.to(dtype).save_pretrained(tmp_path / "m", variant=variant)
    assert len([*tmp_path.rglob(f"*.{variant}.safetensors")]) == 3
    assert_same(frolic.load(tmp_path / "m")("a cat", seed=3, output="tensor").pixels, expected)


def test_a_tokenizer_file_that_pads_and_cuts_by_itself(both, tmp_path):
    """Saved after a call, a tokenizer's file holds the padding and the truncation of that call."""
    pipe, _ = both
    pipe.tokenizer("a cat", padding="max_length", max_length=9, truncation=True)
    pipe.save_pretrained(tmp_path / "m")
    assert '"max_length": 9' in (tmp_path / "m" / "tokenizer" / "tokenizer.json").read_text()
    result = frolic.load(tmp_path / "m")(LONG, seed=3, output="tensor")
    assert_same(result.pixels, draw(pipe, LONG, [3], height=512, width=512))
