"""The published 600M architecture with random weights, 256 pixels, in float32: a folder of its real size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import frolic
from frolic.models.sana.variants import VARIANTS, at_size
from stock import assert_same, draw, stock_pipeline

SIZE = 256


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """diffusers' pipeline and ours. The text encoder is as wide as Gemma 2 but short, the autoencoder only as deep."""
    folder = tmp_path_factory.mktemp("600m")
    config = at_size(VARIANTS["600m"], 512).to_json()
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    pipe = stock_pipeline(folder, stages=6, **settings)
    pipe.save_pretrained(folder / "saved")
    yield pipe, frolic.load(folder / "saved", device="cpu", dtype="float32")
    for file in (folder / "saved").rglob("*.safetensors"):
        file.unlink()


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.slow
def test_one_prediction(both):
    pipe, ours = both
    assert parameters(ours.transformer) == parameters(pipe.transformer) > 590_000_000
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(2, 32, 8, 8, generator=generator), torch.randn(2, 300, 2304, generator=generator)
    t, mask = torch.tensor([999.0, 371.0]), torch.arange(300) < torch.tensor([[300], [17]])
    with torch.inference_mode():
        theirs = pipe.transformer(
            x, encoder_hidden_states=text, timestep=t, encoder_attention_mask=mask.long(), return_dict=False
        )[0]
        got = ours.transformer(x, t, text, mask)
    assert (got - theirs).abs().max() < 1e-3 * (theirs.max() - theirs.min())


@pytest.mark.slow
def test_four_guided_steps(both):
    pipe, ours = both
    size = {"height": SIZE, "width": SIZE}
    got = ours("a red fox", seed=3, steps=4, binning=False, output="tensor", **size).pixels
    expected = draw(pipe, "a red fox", [3], num_inference_steps=4, use_resolution_binning=False, **size)
    assert_same(got, expected, tolerance=1e-3)
