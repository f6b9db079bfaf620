"""A whole request, from prompt text to pixels, against diffusers' own pipeline on the same folder."""

from __future__ import annotations

import pytest
import torch

import frolic
from tiny import LATENTS, MAX_TOKENS, STRIDE, write_tiny_folder

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PROMPTS = ["a red panda eating ramen", "two dogs"]


def stock_pipeline(folder):
    """diffusers' pipeline over the folder's parts. Only the tokenizer's class is named here, not read."""
    pipe = diffusers.SanaPipeline(
        tokenizer=transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer" / "tokenizer.json"), pad_token="<pad>", bos_token="<bos>"
        ),
        # The fused attention kernel of transformers leaves out the soft cap of the logits.
        text_encoder=transformers.Gemma2Model.from_pretrained(folder / "text_encoder", attn_implementation="eager"),
        vae=diffusers.AutoencoderDC.from_pretrained(folder / "vae"),
        transformer=diffusers.SanaTransformer2DModel.from_pretrained(folder / "transformer"),
        scheduler=diffusers.DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler"),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("parity") / "tiny")


@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_twenty_guided_steps(folder, size):
    height, width = size
    latents = torch.randn(2, LATENTS, height // STRIDE, width // STRIDE, generator=torch.Generator().manual_seed(3))
    request = {"negative_prompt": "an orange cat", "guidance_scale": 4.5, "height": height, "width": width}
    theirs = stock_pipeline(folder)(
        PROMPTS,
        num_inference_steps=20,
        latents=latents.clone(),
        output_type="pt",
        use_resolution_binning=False,
        complex_human_instruction=None,
        clean_caption=False,
        max_sequence_length=MAX_TOKENS,
        **request,
    ).images
    ours = frolic.load(folder)(PROMPTS, steps=20, latents=latents, output="tensor", **request).pixels
    ours = (ours + 1) / 2
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.01, "a flat picture would prove nothing"
    assert (ours - theirs).abs().max() < 1e-4
