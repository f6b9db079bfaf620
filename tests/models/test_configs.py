"""Configs: what published ones say is understood, and what is not understood is refused, all of it at once."""

from __future__ import annotations

import pytest

from frolic.errors import CheckpointError
from frolic.models.dcae import DCAEConfig
from frolic.models.sana import SanaConfig, SanaControlNetConfig
from frolic.models.text import Gemma2Config

CONFIGS = [SanaConfig(), SanaControlNetConfig(), DCAEConfig(), Gemma2Config()]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_what_is_written_is_read_back(config):
    assert type(config).from_json(config.to_json()) == config


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_every_unknown_entry_is_named_with_its_nearest(config):
    raw = config.to_json() | {"colour": 3, "num_layer": 2}
    with pytest.raises(CheckpointError) as refused:
        type(config).from_json(raw)
    assert "colour is unknown" in str(refused.value) and "num_layer is unknown" in str(refused.value)


def test_the_nearest_name_is_suggested():
    with pytest.raises(CheckpointError, match="did you mean 'num_layers'"):
        SanaConfig.from_json({"num_layer": 2})


@pytest.mark.parametrize(
    ("kind", "entry", "said"),
    [
        (SanaConfig, {"interpolation_scale": -2.0}, "interpolation_scale is -2.0"),
        (SanaConfig, {"interpolation_scale": 1, "patch_size": 64}, "patch_size is 64, more than sample_size, 32"),
        (SanaConfig, {"norm_elementwise_affine": True}, "norm_elementwise_affine is True"),
        (SanaConfig, {"guidance_embeds": None}, "guidance_embeds is None"),
        (SanaConfig, {"qk_norm": "layer_norm"}, "qk_norm is 'layer_norm'"),
        (SanaConfig, {"cross_attention_dim": 7}, "cross_attention_dim is 7, it must be the width, 2240"),
        (SanaConfig, {"num_attention_heads": 3}, "make the two products equal"),
        (DCAEConfig, {"encoder_block_types": "Swin"}, "block type 'Swin'"),
        (DCAEConfig, {"decoder_norm_types": "batch_norm"}, "decoder_norm_types"),
        (DCAEConfig, {"encoder_layers_per_block": [1]}, "different lengths"),
        (Gemma2Config, {"attention_bias": True}, "attention_bias is True"),
        (Gemma2Config, {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        (Gemma2Config, {"model_type": "llama"}, "model_type is 'llama'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(kind, entry, said):
    with pytest.raises(CheckpointError) as refused:
        kind.from_json(entry)
    assert said in str(refused.value)


def test_dimensions_that_do_not_fit_are_said_at_once():
    with pytest.raises(CheckpointError) as refused:
        SanaConfig.from_json({"num_attention_heads": 3, "cross_attention_dim": 7, "mlp_ratio": 1e-9})
    for said in ("make the two products equal", "cross_attention_dim is 7", "no feed-forward has that width"):
        assert said in str(refused.value)


def test_the_published_autoencoder_has_stride_32():
    config = DCAEConfig()
    assert (config.stride, config.latent_channels) == (32, 32)


WRONG = [{"a": 1}, [[]], -1, 0, 1.5, "8", True, None, float("nan"), float("inf"), 10**400, [0], []]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_no_value_of_any_entry_ends_in_another_error(config):
    """Whatever stands there, it is understood or it is refused as what it is."""
    refused = 0
    for key in config.to_json().keys() | {"rope_theta", "rope_scaling"}:
        for value in WRONG:
            try:
                type(config).from_json({**config.to_json(), key: value})
            except CheckpointError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 600
    assert refused > 100


@pytest.mark.parametrize(
    ("kind", "entry", "said"),
    [
        (SanaConfig, {"num_layers": "8"}, "num_layers is '8', it must be a whole number, 1 to 1024"),
        (SanaConfig, {"num_layers": 10**9}, "num_layers is 1000000000"),
        (SanaConfig, {"in_channels": None}, "in_channels is None"),
        (SanaConfig, {"timestep_scale": "x"}, "timestep_scale is 'x', it must be a number above 0"),
        (SanaConfig, {"attention_bias": 1}, "attention_bias is 1, it must be true or false"),
        (SanaConfig, {"mlp_ratio": 1e9}, "no feed-forward has that width"),
        (DCAEConfig, {"latent_channels": 0}, "latent_channels is 0"),
        (
            DCAEConfig,
            {"encoder_block_out_channels": [128, 256, 512, 512, 1024, 1000], "latent_channels": 8},
            "encoder: stages 4 and 5 of 1024 and 1000 channels cannot be joined",
        ),
        (
            DCAEConfig,
            {"decoder_block_out_channels": [96, 512, 512, 512, 1024, 1024]},
            "decoder: stages 0 and 1 of 96 and 512 channels cannot be joined",
        ),
        (DCAEConfig, {"latent_channels": 33}, "1024 channels do not divide into 33 latents"),
        (DCAEConfig, {"scaling_factor": "x"}, "scaling_factor is 'x'"),
        (DCAEConfig, {"encoder_block_out_channels": []}, "there are 0 stages"),
        (DCAEConfig, {"decoder_norm_types": [[]]}, "decoder_norm_types is [[]]"),
        (DCAEConfig, {"encoder_layers_per_block": [2, 2, 0, 3, 3, 3]}, "a stage after the first one has no layers"),
        (
            DCAEConfig,
            {"attention_head_dim": 2048, "encoder_block_types": "EfficientViTBlock"},
            "narrower than one head",
        ),
        (Gemma2Config, {"rope_parameters": [1]}, "rope_parameters is [1], it must be an object or null"),
        (Gemma2Config, {"rope_parameters": {"rope_theta": "x"}}, "rope_theta is 'x'"),
        (Gemma2Config, {"num_key_value_heads": 3}, "a multiple of the last"),
    ],
)
def test_a_value_of_the_wrong_kind_is_said(kind, entry, said):
    with pytest.raises(CheckpointError) as refused:
        kind.from_json(entry)
    assert said in str(refused.value)
