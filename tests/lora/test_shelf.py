"""Adapters that are given a name: kept as strong as they were, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import dialects
from dialects import expected, factors, goal, inputs, model, save, write_peft_folder
from frolic.adapters import load, read, shelf
from frolic.errors import CheckpointError, FileError, RequestError, UnsafeFileError
from frolic.io.safetensors import fingerprint
from frolic.io.safetensors import save as save_whole
from frolic.lora.layer import Attached


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROLIC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(shelf, "shipped_folder", lambda: tmp_path / "shipped")


def glow(path: Path, **said: str) -> Path:
    tensors, metadata = dialects.diffusers(factors())
    save(tensors, path, {**metadata, **said})
    return path


def strength_of(name: str) -> torch.Tensor:
    net = model()
    Attached(net, {"it": load(name, goal()).adapter}).use({"it": 1.0})
    return net(*inputs())


def test_a_file_is_copied_to_the_byte(tmp_path: Path) -> None:
    source = glow(tmp_path / "glow.safetensors")
    added = shelf.add(source)
    assert added.name == "glow" and fingerprint([added.path]) == fingerprint([source])


def test_a_folder_keeps_the_strength_that_was_said_beside_its_file(tmp_path: Path) -> None:
    folder = write_peft_folder(tmp_path / "glow", factors())
    wanted = expected(model(), factors())(*inputs())
    assert shelf.add(folder).name == "glow"
    torch.testing.assert_close(strength_of("glow"), wanted, rtol=0, atol=1e-5)
    assert shelf.add(folder / "adapter_model.safetensors", "other").name == "other"
    torch.testing.assert_close(strength_of("other"), wanted, rtol=0, atol=1e-5)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 6.0, "use_rslora": True}))
    shelf.add(folder, force=True)
    adapter = read(folder, goal()).deltas["blocks.0.attn.qkv"]
    torch.testing.assert_close(load("glow", goal()).adapter.deltas["blocks.0.attn.qkv"].change(), adapter.change())


def test_shards_become_one_file(tmp_path: Path) -> None:
    tensors, metadata = dialects.diffusers(factors())
    (tmp_path / "glow").mkdir()
    where = {key: f"part-{number % 2}.safetensors" for number, key in enumerate(tensors)}
    for name in set(where.values()):
        save({key: tensors[key] for key in tensors if where[key] == name}, tmp_path / "glow" / name, metadata)
    index = tmp_path / "glow" / "pytorch_lora_weights.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert shelf.add(tmp_path / "glow").name == "glow"
    torch.testing.assert_close(strength_of("glow"), expected(model(), factors())(*inputs()), rtol=0, atol=1e-5)


def test_what_cannot_be_used_gets_no_name(tmp_path: Path) -> None:
    tensors, metadata = dialects.comfy(factors())
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    next(iter(tensors.values()))[0, 0] = torch.nan
    save(tensors, tmp_path / "nan.safetensors", metadata)
    save_whole({"conv.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    torch.save({}, tmp_path / "a.pt")
    for name, error, said in (
        ("nan.safetensors", CheckpointError, "not finite"),
        ("model.safetensors", CheckpointError, "not of an adapter"),
        ("a.pt", UnsafeFileError, "is a pickle"),
    ):
        with pytest.raises(error, match=said):
            shelf.add(tmp_path / name, "glow")
    assert not shelf.own_folder().exists()


def test_a_name_that_loses_the_expert_is_refused(tmp_path: Path) -> None:
    source = glow(tmp_path / "style_low_noise.safetensors")
    with pytest.raises(RequestError, match=r"is for low noise.*--name style-low"):
        shelf.add(source, "style")
    shelf.add(source, "style-low")
    shelf.add(source)
    shelf.add(glow(tmp_path / "x_low_noise.safetensors", **{"frolic.expert": "high"}), "plain")
    wanted = {"style-low": "low", "style_low_noise": "low", "plain": "high"}  # the last file says it itself
    assert {name: load(name, goal()).expert for name in wanted} == wanted


def test_a_taken_name_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = glow(tmp_path / "glow.safetensors")
    shelf.add(source)
    monkeypatch.setattr(shelf, "read", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(FileError, match="already exists"):
        shelf.add(source)


def test_the_rank_is_that_of_the_factors(tmp_path: Path) -> None:
    assert shelf.add(glow(tmp_path / "a.safetensors", ss_network_dim="99")).rank == "4"
    one, two = factors(rank=2), factors(rank=8)
    mixed = {name: (one if number else two)[name] for number, name in enumerate(one)}
    tensors, _ = dialects.folded(mixed)
    save(tensors, tmp_path / "b.safetensors")
    assert shelf.add(tmp_path / "b.safetensors").rank == "2 to 8"


@pytest.mark.parametrize("weight", ["nan", "inf", "1e9", "much", ""])
def test_an_advised_weight_that_is_none_is_the_usual_one(tmp_path: Path, weight: str) -> None:
    added = shelf.add(glow(tmp_path / "glow.safetensors", **{shelf.WEIGHT: weight}))
    assert added.weight == 1.0
