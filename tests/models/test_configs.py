"""Configs: what published ones say is understood, and what is not understood is refused, all of it at once."""

from __future__ import annotations

import pytest

from frolic.errors import CheckpointError
from frolic.models.dcae import DCAEConfig
from frolic.models.sana import SanaConfig
from frolic.models.text import Gemma2Config

CONFIGS = [SanaConfig(), DCAEConfig(), Gemma2Config()]


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
        (SanaConfig, {"interpolation_scale": 2.0}, "interpolation_scale is 2.0"),
        (SanaConfig, {"guidance_embeds": True}, "guidance_embeds is True"),
        (SanaConfig, {"qk_norm": "layer_norm"}, "qk_norm 'layer_norm'"),
        (SanaConfig, {"cross_attention_dim": 7}, "cross_attention_dim is 7"),
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


def test_the_published_autoencoder_has_stride_32():
    config = DCAEConfig()
    assert (config.stride, config.latent_channels) == (32, 32)
