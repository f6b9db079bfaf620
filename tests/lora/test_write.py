from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from test_dialects import output

from dialects import expected, factors, goal, inputs, model
from dialects import write as write_dialect
from frolic.adapters import FORMATS, read, write, write_experts
from frolic.errors import FileError, RequestError
from frolic.lora import blend
from frolic.lora.adapter import Adapter
from frolic.lora.delta import Delta


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("alike", [True, False], ids=["shared", "split"])
def test_every_format_says_the_same(tmp_path: Path, form: str, alike: bool) -> None:
    given = factors(split_alike=alike)
    adapter = read(write_dialect(tmp_path, "diffusers", given), goal())
    path = tmp_path / f"{form}.out.safetensors"
    write(adapter, path, goal(), form, dtype=torch.float32)
    again = read(path, goal())
    torch.testing.assert_close(output(again, 0.7), expected(model(), given, 0.7)(*inputs()), rtol=0, atol=1e-5)


def test_diffusers_files_are_no_larger_than_they_were(tmp_path: Path) -> None:
    """q, k and v come back with their own rank, not with that of all three together."""
    given = factors(split_alike=False)
    adapter = read(write_dialect(tmp_path, "diffusers", given), goal())
    write(adapter, tmp_path / "again.safetensors", goal(), "diffusers", dtype=torch.float32)
    with safe_open(tmp_path / "again.safetensors", "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
    with safe_open(tmp_path / "diffusers.safetensors", "pt") as file:
        assert shapes == {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    assert settings["transformer.r"] == settings["transformer.lora_alpha"] == 4
    assert settings["transformer.rank_pattern"] == {}


@pytest.mark.parametrize("form", ["comfy", "diffusers"])
def test_dora_survives(tmp_path: Path, form: str) -> None:
    shape = goal().shapes["blocks.0.attn.qkv"]
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(4, shape[1], generator=generator), torch.randn(shape[0], 4, generator=generator)
    dora = Adapter({"blocks.0.attn.qkv": Delta(a, b, magnitude=1 + torch.rand(shape[0], generator=generator))})
    write(dora, tmp_path / "a.safetensors", goal(), form, dtype=torch.float32)
    torch.testing.assert_close(output(read(tmp_path / "a.safetensors", goal())), output(dora), rtol=0, atol=1e-5)


def test_what_a_format_cannot_say_is_refused_and_a_cut_helps(tmp_path: Path) -> None:
    dense = read(write_dialect(tmp_path, "full_difference", factors()), goal())
    path = tmp_path / "a.safetensors"
    with pytest.raises(RequestError, match=r"not of low rank \(\d+\).*blocks"):
        write(dense, path, goal(), "diffusers")
    write(dense, path, goal(), "comfy", dtype=torch.float32)
    torch.testing.assert_close(output(read(path, goal())), output(dense), rtol=0, atol=1e-5)
    short = blend.cut([(dense, 1.0)], 4)
    assert short.error < 1e-5
    write(short.adapter, path, goal(), "diffusers", dtype=torch.float32, force=True)
    torch.testing.assert_close(output(read(path, goal())), output(dense), rtol=0, atol=1e-4)
    with pytest.raises(RequestError, match=r"'diffuser' is not known.*diffusers"):
        write(dense, path, goal(), "diffuser")
    with pytest.raises(FileError, match="exists"):
        write(short.adapter, path, goal(), "comfy")


def test_bias_and_metadata(tmp_path: Path) -> None:
    rows, columns = goal().shapes["out"]
    biased = Adapter({"out": Delta(torch.zeros(0, columns), torch.zeros(rows, 0), bias=torch.ones(rows))})
    write(biased, tmp_path / "a.safetensors", goal(), "kohya", metadata={"modelspec.title": "Glow"})
    adapter = read(tmp_path / "a.safetensors", goal())
    assert torch.equal(adapter.deltas["out"].bias, torch.ones(rows))
    assert adapter.metadata["modelspec.title"] == "Glow" and adapter.metadata["modelspec.sai_model_spec"] == "1.0.1"
    with pytest.raises(RequestError, match="a bias"):
        write(biased, tmp_path / "b.safetensors", goal(), "diffusers")


def test_experts_of_different_ranks_keep_their_strength(tmp_path: Path) -> None:
    halves = {
        expert: read(write_dialect(_made(tmp_path / expert), "diffusers", factors(seed, rank)), goal())
        for seed, (expert, rank) in enumerate((("high", 2), ("low", 6)))
    }
    path = tmp_path / "both.safetensors"
    write_experts(halves, path, goal(), two=True, dtype=torch.float32)
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (said["transformer.lora_alpha"], said["transformer_2.lora_alpha"]) == (2, 6)
    for expert, half in halves.items():
        again = read(path, goal(), expert=expert)
        assert again.ranks == half.ranks
        torch.testing.assert_close(output(again), output(half), rtol=0, atol=1e-5)
    # One alone, in its own part's words or in the usual ones.
    write_experts({"low": halves["low"]}, tmp_path / "low.safetensors", goal(), two=True, dtype=torch.float32)
    torch.testing.assert_close(
        output(read(tmp_path / "low.safetensors", goal(), expert="low")), output(halves["low"]), rtol=0, atol=1e-5
    )


def test_a_bias_is_not_helped_by_a_rank(tmp_path: Path) -> None:
    rows, columns = goal().shapes["out"]
    biased = Adapter({"out": Delta(torch.zeros(1, columns), torch.zeros(rows, 1), bias=torch.ones(rows))})
    with pytest.raises(RequestError, match=r"(?s)choose --to comfy, or merge it.*a bias"):
        write(biased, tmp_path / "a.safetensors", goal(), "diffusers")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
