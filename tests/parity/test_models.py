"""Our modules against the published classes: same random weights, same inputs, float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from frolic.models.dcae import DCAE, DCAEConfig
from frolic.models.dcae import diffusers_keys as dcae_keys
from frolic.models.sana import SanaConfig, SanaTransformer
from frolic.models.sana import diffusers_keys as sana_keys
from frolic.models.text import Gemma2Config, Gemma2Encoder, transformers_keys

diffusers = pytest.importorskip("diffusers")

SANA = {
    "in_channels": 8, "out_channels": 8, "num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 3,
    "num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "cross_attention_dim": 32,
    "caption_channels": 24, "sample_size": 8,
}  # fmt: skip
DC_AE = {
    "latent_channels": 8, "attention_head_dim": 8,
    "encoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
    "decoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
    "encoder_block_out_channels": [8, 16, 32], "decoder_block_out_channels": [8, 16, 32],
    "encoder_layers_per_block": [1, 2, 1], "decoder_layers_per_block": [1, 2, 2],
    "encoder_qkv_multiscales": [[], [], [5]], "decoder_qkv_multiscales": [[], [], [5]],
    "scaling_factor": 0.41,
}  # fmt: skip


def randomise(module: nn.Module) -> None:
    """Every weight random, also those that start at one or zero, so that each of them matters to the result."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in module.named_parameters():
            scale = 0.2 if p.ndim > 1 else 0.3
            p.copy_(torch.randn(p.shape, generator=generator) * scale + (0.8 if "norm" in name and p.ndim == 1 else 0))


def load_from(theirs: nn.Module, ours: nn.Module, keymap) -> None:
    randomise(theirs)
    theirs.eval()
    ours.load_state_dict(keymap.load(theirs.state_dict()), strict=True)


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    """Largest difference under ``tolerance`` of the reference's range."""
    assert ours.shape == theirs.shape
    span = (theirs.max() - theirs.min()).item()
    assert span > 0
    assert ((ours - theirs).abs().max().item() / span) < tolerance


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
@pytest.mark.parametrize(
    "change", [{}, {"qk_norm": "rms_norm_across_heads"}, {"patch_size": 2}, {"attention_bias": True}]
)
def test_transformer(size, change):
    theirs = diffusers.SanaTransformer2DModel(**SANA | change)
    config = SanaConfig.from_json(dict(theirs.config))
    ours = SanaTransformer(config)
    load_from(theirs, ours, sana_keys(config))
    x, text, t = torch.randn(2, 8, *size), torch.randn(2, 7, 24), torch.tensor([999.0, 371.0])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]])
    with torch.no_grad():
        expected = theirs(x, encoder_hidden_states=text, timestep=t, encoder_attention_mask=mask).sample
        assert_close(ours(x, t, text, mask), expected)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (8, 8)])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"downsample_block_type": "Conv", "upsample_block_type": "interpolate"},
        {"encoder_out_shortcut": False, "decoder_in_shortcut": False, "decoder_conv_act_fn": "silu"},
        {"encoder_layers_per_block": [0, 2, 1], "decoder_layers_per_block": [0, 2, 2]},
    ],
)
def test_autoencoder(size, change):
    theirs = diffusers.AutoencoderDC(**DC_AE | change)
    config = DCAEConfig.from_json(dict(theirs.config))
    ours = DCAE(config)
    load_from(theirs, ours, dcae_keys(config))
    x = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        z = theirs.encode(x).latent
        assert_close(ours.encode(x), z)
        assert_close(ours.decode(z), theirs.decode(z).sample)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_text_encoder(softcap):
    transformers = pytest.importorskip("transformers")
    raw = transformers.Gemma2Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, sliding_window=4,
        attn_logit_softcapping=softcap,
    )  # fmt: skip
    theirs = transformers.Gemma2Model._from_config(raw, attn_implementation="eager")
    config = Gemma2Config.from_json(raw.to_dict())
    ours = Gemma2Encoder(config)
    load_from(theirs, ours, transformers_keys(config))
    ids = torch.randint(0, 97, (2, 9))
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask).last_hidden_state
        got = ours(ids, mask)
    assert_close(got[0], expected[0])
    assert_close(got[1, :5], expected[1, :5])


@pytest.mark.parametrize("patch", [1, 2])
def test_key_maps_invert(patch):
    config = SanaConfig.from_json(SANA | {"patch_size": patch, "qk_norm": "rms_norm_across_heads"})
    for keymap, module in (
        (sana_keys(config), SanaTransformer(config)),
        (dcae_keys(DCAEConfig.from_json(DC_AE)), DCAE(DCAEConfig.from_json(DC_AE))),
    ):
        state = module.state_dict()
        back = keymap.load(keymap.save(state))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], state[key]) for key in state)
        assert {name for key in state for name in keymap.theirs(key)} == keymap.save(state).keys()
