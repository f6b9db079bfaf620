"""Wan's own files: a transformer or an autoencoder in one file, and folders that lack something."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import frolic
from frolic.errors import CheckpointError, RequestError
from frolic.io.safetensors import load
from frolic.models.text import UMT5Config, umt5_keys, umt5_original_keys
from frolic.models.wan import WanConfig, diffusers_keys, original_keys
from frolic.models.wan_vae import WanVAEConfig
from frolic.models.wan_vae import diffusers_keys as vae_keys
from frolic.models.wan_vae import original_keys as vae_original_keys
from tiny_wan import write_tiny_wan

GIVEN = {"seed": 3, "steps": 2, "frames": 5, "height": 32, "width": 32, "output": "tensor"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_wan(tmp_path / "tiny")


def drawn(*args: object, **options: object) -> torch.Tensor:
    pixels = frolic.load(*args, device="cpu", dtype="float32", **options)("two dogs", **GIVEN).pixels
    assert pixels is not None
    return pixels


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_transformer_in_the_authors_names(folder: Path, tmp_path: Path, prefix: str) -> None:
    part = folder / "transformer"
    config = WanConfig.from_json(json.loads((part / "config.json").read_text()))
    ours = diffusers_keys(config).load(load(part / "diffusion_pytorch_model.safetensors"))
    theirs = {prefix + name: tensor for name, tensor in original_keys(config).save(ours).items()}
    save_file(theirs, tmp_path / "wan.safetensors")
    assert torch.equal(drawn(tmp_path / "wan.safetensors", base=folder), drawn(folder))


def test_a_folder_whose_parts_have_the_authors_names(folder: Path) -> None:
    expected = drawn(folder)
    for part, kind, theirs, own, file in (
        ("vae", WanVAEConfig, vae_keys, vae_original_keys, "diffusion_pytorch_model.safetensors"),
        ("text_encoder", UMT5Config, umt5_keys, umt5_original_keys, "model.safetensors"),
    ):
        path = folder / part / file
        config = kind.from_json(json.loads((folder / part / "config.json").read_text()))
        state = own(config).save(theirs(config).load(load(path)))
        path.unlink()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    assert torch.equal(drawn(folder), expected)


def test_parts_that_do_not_belong_together(folder: Path, tmp_path: Path) -> None:
    other = write_tiny_wan(tmp_path / "other", "ti2v")
    shutil.rmtree(folder / "vae")
    shutil.copytree(other / "vae", folder / "vae")
    with pytest.raises(CheckpointError, match="latent channels"):
        frolic.load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"boundary_ratio": 0.9}, "transformer_2"),
        ({"boundary_ratio": 2}, "between 0 and 1"),
        ({"expand_timesteps": 3}, "expand_timesteps"),
        ({"transformer": ["diffusers", "FluxTransformer2DModel"]}, "FluxTransformer2DModel"),
        ({"colour": ["a", "b"]}, "colour"),
    ],
)
def test_settings_that_cannot_be_followed(folder: Path, change: dict[str, object], said: str) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **change}))
    with pytest.raises(CheckpointError, match=said):
        frolic.load(folder)


def test_two_experts_need_to_know_where_they_meet(tmp_path: Path) -> None:
    folder = write_tiny_wan(tmp_path / "two", "t2v-two")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "boundary_ratio": None}))
    with pytest.raises(CheckpointError, match="boundary_ratio"):
        frolic.load(folder)


def test_image_models_of_wan21_are_refused_with_the_reason(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "image_dim": 1280, "added_kv_proj_dim": 5120}))
    with pytest.raises(CheckpointError, match="image_dim is 1280"):
        frolic.load(folder)


def test_a_controlnet_is_for_other_models(folder: Path, tiny_folder: Path) -> None:
    with pytest.raises(RequestError, match="have no controlnet"):
        frolic.load(folder, controlnet=tiny_folder)


def test_another_autoencoder(folder: Path, tmp_path: Path) -> None:
    other = write_tiny_wan(tmp_path / "other", seed=5)
    assert not torch.equal(drawn(folder, vae=other), drawn(folder))
    assert torch.equal(drawn(folder, vae=folder / "vae"), drawn(folder))
