"""Wan's own files: a transformer or an autoencoder in one file, and folders that lack something."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import frolic
from frolic.convert import convert
from frolic.errors import CheckpointError, RequestError
from frolic.io.safetensors import load
from frolic.models.text import UMT5Config, umt5_keys, umt5_original_keys
from frolic.models.wan import WanConfig, diffusers_keys, original_keys
from frolic.models.wan_vae import WanVAEConfig
from frolic.models.wan_vae import diffusers_keys as vae_keys
from frolic.models.wan_vae import original_keys as vae_original_keys
from frolic.plan import make_plan
from frolic.plan.find import shipped_or_path
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


def test_a_file_of_one_expert_takes_the_place_that_its_name_says(tmp_path: Path) -> None:
    video = shipped_or_path("starter-video")
    file = tmp_path / "moving_low_noise.safetensors"
    convert(video / "transformer_2", file, "original")
    plan = make_plan(file, base="starter-video", device="cpu")
    assert plan.parts["transformer_2"].path == file and plan.parts["transformer"].path == video / "transformer"
    assert "the expert for little noise; the first one is starter-video's" in " ".join(plan.notes)
    file = file.rename(tmp_path / "moving.safetensors")
    plan = make_plan(file, base="starter-video", device="cpu")
    assert plan.parts["transformer"].path == file and plan.parts["transformer_2"].path == video / "transformer_2"
    assert "the expert for much noise" in " ".join(plan.notes)


def test_a_file_of_another_family_is_refused(folder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    said = "of the family wan, but the model that it is to go with is of sana"
    file = tmp_path / "wan.safetensors"
    convert(folder, file, "original")
    with pytest.raises(CheckpointError, match=said):
        make_plan(file, base=tiny_folder)
    with pytest.raises(CheckpointError, match=said):
        convert(file, tmp_path / "out", base=tiny_folder)
    vae = tmp_path / "vae.safetensors"
    convert(folder / "vae", vae, "original")
    with pytest.raises(CheckpointError, match=said):
        make_plan(tiny_folder, vae=vae)
    # In diffusers' names too, which tell nothing but whose they are.
    with pytest.raises(CheckpointError, match=said):
        make_plan(folder / "transformer" / "diffusion_pytorch_model.safetensors", base=tiny_folder)
    # Another model's config beside a file is none of its own.
    shutil.copy(tiny_folder / "transformer" / "config.json", tmp_path / "config.json")
    done = convert(file, tmp_path / "again.safetensors", "comfy", base=folder)
    assert any("was ignored" in sentence for sentence in done.assumed)
