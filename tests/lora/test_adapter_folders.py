"""Folders that hold an adapter: whole, in shards, in the Hub's cache, and those that point out of themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dialects
from dialects import expected, factors, goal, inputs, model, save, write_peft_folder
from frolic.adapters import find, load, read
from frolic.errors import CheckpointError
from frolic.io import safetensors
from frolic.lora.layer import Attached

NAME = "pytorch_lora_weights.safetensors"
INDEX = f"{NAME}.index.json"


def shards(folder: Path) -> dict[str, str]:
    """An adapter in two files with their index; returns which tensor is where."""
    folder.mkdir(parents=True)
    tensors, metadata = dialects.diffusers(factors())
    keys = sorted(tensors)
    where = {key: f"part-{number}.safetensors" for number in (1, 2) for key in keys[number - 1 :: 2]}
    for name in set(where.values()):
        save({key: tensors[key] for key in keys if where[key] == name}, folder / name, metadata)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return where


def output(path: Path) -> Tensor:
    net = model()
    Attached(net, {"it": read(path, goal())}).use({"it": 1.0})
    return net(*inputs())


def test_an_adapter_in_shards(tmp_path: Path) -> None:
    shards(tmp_path / "glow")
    wanted = expected(model(), factors())(*inputs())
    for path in (tmp_path / "glow", tmp_path / "glow" / INDEX):
        torch.testing.assert_close(output(path), wanted, rtol=0, atol=1e-5)
    loaded = load(str(tmp_path / "glow"), goal())
    assert loaded.name == "glow" and len(find(tmp_path / "glow").files) == 2
    second = tmp_path / "glow" / "part-2.safetensors"
    save({key: tensor * 2 for key, tensor in safetensors.load(second).items()}, second)
    assert load(str(tmp_path / "glow"), goal()).hash != loaded.hash, "every shard counts"


def outside(tmp_path: Path) -> Path:
    tensors, metadata = dialects.diffusers(factors())
    save(tensors, tmp_path / "secret.safetensors", metadata)
    return tmp_path / "secret.safetensors"


def by_name(folder: Path, secret: Path, said: str) -> None:
    where = shards(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {**where, next(iter(where)): said}}))


def upwards(folder: Path, secret: Path) -> None:
    by_name(folder, secret, "../secret.safetensors")


def absolute(folder: Path, secret: Path) -> None:
    by_name(folder, secret, str(secret))


def linked_shard(folder: Path, secret: Path) -> None:
    shards(folder)
    (folder / "part-1.safetensors").unlink()
    (folder / "part-1.safetensors").symlink_to(secret)


def linked_weights(folder: Path, secret: Path) -> None:
    folder.mkdir()
    (folder / NAME).symlink_to("../secret.safetensors")


def linked_alone(folder: Path, secret: Path) -> None:
    folder.mkdir()
    (folder / "glow.safetensors").symlink_to(secret)


def linked_settings(folder: Path, secret: Path) -> None:
    write_peft_folder(folder, factors())
    (folder / "adapter_config.json").unlink()
    secret.with_suffix(".json").write_text("{}")
    (folder / "adapter_config.json").symlink_to(secret.with_suffix(".json"))


@pytest.mark.parametrize(
    "spoil", [upwards, absolute, linked_shard, linked_weights, linked_alone, linked_settings], ids=lambda f: f.__name__
)
def test_a_folder_that_points_out_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path, Path], None]
) -> None:
    spoil(tmp_path / "glow", outside(tmp_path))

    def refuse(*_: object) -> None:
        raise AssertionError("no tensor may be read")

    monkeypatch.setattr(safetensors, "_read", refuse)
    with pytest.raises(CheckpointError, match="points out of itself") as error:
        read(tmp_path / "glow", goal(), allow_partial=True)
    assert "outside of the adapter's folder (1)" in str(error.value)


def test_a_model_that_the_settings_name_is_not_looked_for(tmp_path: Path) -> None:
    folder = write_peft_folder(tmp_path / "glow", factors())
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "../../elsewhere"}))
    torch.testing.assert_close(output(folder), expected(model(), factors())(*inputs()), rtol=0, atol=1e-5)


def test_links_inside_of_the_hub_s_cache_are_followed(tmp_path: Path) -> None:
    repo = tmp_path / "models--org--glow"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    outside(tmp_path).rename(repo / "blobs" / "abc")
    (snapshot / NAME).symlink_to("../../blobs/abc")
    torch.testing.assert_close(output(snapshot), expected(model(), factors())(*inputs()), rtol=0, atol=1e-5)
    assert find(snapshot).name == "glow", "neither its commit nor where its file lies"
    (repo / "blobs" / "abc").rename(repo / "abc")
    (snapshot / NAME).unlink()
    (snapshot / NAME).symlink_to("../../abc")
    with pytest.raises(CheckpointError, match="points out of itself"):
        read(snapshot, goal())


def test_a_key_that_a_file_has_twice(tmp_path: Path) -> None:
    """No library writes one; the second would silently count."""
    header = (
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    )
    (tmp_path / "glow.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="names 'a' twice"):
        read(tmp_path / "glow.safetensors", goal())


def test_a_usual_name_says_nothing_and_its_folder_s_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "glow"
    folder.mkdir()
    save(dialects.diffusers(factors())[0], folder / NAME)
    monkeypatch.chdir(folder)
    assert find(Path(NAME)).name == find(Path()).name == find(folder).name == "glow"
