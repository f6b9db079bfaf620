"""Whole requests, from prompt text to frames, against diffusers' own Wan pipelines on the same folders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import frolic
from tiny_wan import vae_config, write_tiny_wan

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PROMPT, AWAY = "a rocket taking off", "two dogs"
SIZE = {"height": 32, "width": 64}


def stock(folder: Path, kind: str) -> Any:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer" / "tokenizer.json"), pad_token="<pad>", eos_token="</s>"
    )
    model = diffusers.WanTransformer3DModel
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "text_encoder": transformers.UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
        "vae": diffusers.AutoencoderKLWan.from_pretrained(folder / "vae"),
        "scheduler": diffusers.UniPCMultistepScheduler.from_pretrained(folder / "scheduler"),
        "transformer": model.from_pretrained(folder / "transformer"),
        "transformer_2": model.from_pretrained(folder / "transformer_2") if kind.endswith("two") else None,
        "boundary_ratio": 0.875 if kind.endswith("two") else None,
        "expand_timesteps": kind == "ti2v",
    }
    with_image = kind.startswith("i2v")
    pipe = (diffusers.WanImageToVideoPipeline if with_image else diffusers.WanPipeline)(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(kind: str, frames: int = 9) -> Tensor:
    config = vae_config("2.2" if kind == "ti2v" else "2.1")
    shape = (1, config.latent_channels, 1 + (frames - 1) // 4, 32 // config.stride, 64 // config.stride)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """[1, 3, T, H, W] in [-1, 1], and what diffusers gives as [1, T, 3, H, W] in [0, 1]."""
    got = (ours + 1) / 2
    expected = theirs.transpose(1, 2)
    assert got.shape == expected.shape
    assert expected.std() > 0.003, "a flat clip would prove nothing"
    assert (got - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["t2v", "t2v-two", "ti2v"])
def test_text_to_video(tmp_path: Path, kind: str) -> None:
    folder = write_tiny_wan(tmp_path / "tiny", kind)
    theirs = stock(folder, kind)(
        PROMPT, AWAY, num_frames=9, num_inference_steps=8, guidance_scale=4.0, latents=noise(kind), output_type="pt",
        **({"guidance_scale_2": 3.0} if kind.endswith("two") else {}), **SIZE,
    ).frames  # fmt: skip
    pipe = frolic.load(folder, device="cpu", dtype="float32")
    second = {"guidance_scale_2": 3.0} if kind.endswith("two") else {}
    ours = pipe(
        PROMPT, negative_prompt=AWAY, steps=8, guidance_scale=4.0, latents=noise(kind), output="tensor", **second
    )
    assert ours.pixels is not None and ours.request.frames == 9
    assert_same(ours.pixels, theirs)


@pytest.mark.parametrize("kind", ["i2v-two", "ti2v"])
def test_a_given_first_frame(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.wan import pipeline_wan_i2v

    # It calls a library that it does not require; the text here has nothing to be mended.
    monkeypatch.setattr(pipeline_wan_i2v, "ftfy", SimpleNamespace(fix_text=lambda text: text), raising=False)
    folder = write_tiny_wan(tmp_path / "tiny", kind)
    image = torch.rand(3, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    pipe = stock(folder, kind)
    if kind == "ti2v":
        pipe = diffusers.WanImageToVideoPipeline(**pipe.components, expand_timesteps=True)
        pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        image=(image[None] + 1) / 2, prompt=PROMPT, negative_prompt=AWAY, num_frames=9, num_inference_steps=8,
        guidance_scale=4.0, latents=noise(kind), output_type="pt", **SIZE,
    ).frames  # fmt: skip
    ours = frolic.load(folder, device="cpu", dtype="float32")(
        PROMPT, negative_prompt=AWAY, steps=8, guidance_scale=4.0, latents=noise(kind), image=image, output="tensor"
    )
    assert ours.pixels is not None
    assert_same(ours.pixels, theirs)


def test_one_frame_is_a_picture(tmp_path: Path) -> None:
    folder = write_tiny_wan(tmp_path / "tiny")
    result = frolic.load(folder)(PROMPT, seed=1, steps=2, frames=1, **SIZE)
    assert result.images[0].size == (64, 32) and not result.videos
