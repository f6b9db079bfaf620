"""Published rewards' pickles become safetensors that the rewards read."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from frolic.cli.convert import register
from frolic.convert import convert
from frolic.errors import CheckpointError, FileError, RequestError, UnsafeFileError
from frolic.io.safetensors import load, save
from frolic.rewards import RewardSpec, make_reward
from published import PROMPTS, OpenClip, clip_model, mps_tensors, predictor, randomise, siglip_model, write_folder

FRAMES = torch.rand(3, 1, 3, 42, 42, generator=torch.Generator().manual_seed(0))


def written(path: Path, kind: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, Any] = {
        "hps": lambda: dict(randomise(OpenClip()).half().state_dict()),
        "mps": mps_tensors,
        "v2": lambda: predictor(16, (0, 2, 4, 6, 7), "layers")[1],
        "v2.5": lambda: predictor(32, (0, 2, 4, 6, 8), "scoring_head")[1],
        "pickscore": lambda: dict(clip_model().state_dict()),
        "siglip": lambda: dict(siglip_model().state_dict()),
    }[kind]()
    if path.suffix == ".safetensors":
        save(tensors, path)
    else:
        torch.save({"epoch": 3, "state_dict": tensors} if kind == "hps" else tensors, path)
    return tensors


@pytest.mark.parametrize("kind", ["hps", "mps", "v2", "v2.5", "pickscore", "siglip"])
def test_tensors_pass_unchanged(tmp_path, kind):
    want = written(tmp_path / "a.safetensors", kind)
    done = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "original")
    got = load(tmp_path / "b.safetensors")
    assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)
    assert done.tensors == len(want) and done.bytes == sum(tensor.nbytes for tensor in want.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(("kind", "name"), [("hps", "hps-v2.1"), ("mps", "mps"), ("pickscore", "pickscore")])
def test_the_reward_reads_what_was_written(tmp_path, kind, name):
    tensors = written(tmp_path / "a.pt", kind)
    folder = write_folder(tmp_path / "m", tensors)
    want = make_reward(RewardSpec(name, {"weights": folder})).score(FRAMES, PROMPTS)
    (folder / "model.safetensors").unlink()
    result = CliRunner().invoke(app(), [str(tmp_path / "a.pt"), str(folder / "x.safetensors"), "--to", "original"])
    assert result.exit_code == 0 and f"with {len(tensors)} tensors" in result.stdout
    assert torch.equal(make_reward(RewardSpec(name, {"weights": folder})).score(FRAMES, PROMPTS), want)


def app() -> typer.Typer:
    made = typer.Typer()
    register(made)
    return made


def test_the_dtype_is_changed_where_it_is_asked_for(tmp_path):
    written(tmp_path / "a.pth", "v2")
    convert(tmp_path / "a.pth", tmp_path / "a.safetensors", "original", dtype="bf16")
    assert {tensor.dtype for tensor in load(tmp_path / "a.safetensors").values()} == {torch.bfloat16}


def test_what_cannot_be_is_refused_and_nothing_written(tmp_path):
    source = tmp_path / "a.safetensors"
    tensors = written(source, "v2")
    with pytest.raises(RequestError, match="belongs to a reward; give --to original"):
        convert(source, tmp_path / "folder")
    with pytest.raises(FileError, match="read for it"):
        convert(source, source, "original", force=True)
    tensors["layers.0.weight"][0, 0], tensors["layers.7.bias"][0] = math.nan, math.inf
    save(tensors, source, force=True)
    with pytest.raises(CheckpointError, match=r"not finite \(2\)"):
        convert(source, tmp_path / "b.safetensors", "original")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


class Wicked:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


def test_code_beside_the_weights_does_not_run(tmp_path):
    tensors = written(tmp_path / "a.pth", "v2")
    torch.save({"state_dict": tensors, "model": Wicked(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(UnsafeFileError):
        convert(tmp_path / "a.pth", tmp_path / "a.safetensors", "original")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
