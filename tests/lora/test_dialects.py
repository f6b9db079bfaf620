from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dialects
from dialects import ALPHA, DIALECTS, RANK, expected, factors, goal, inputs, model, save, write, write_peft_folder
from frolic.adapters import read
from frolic.errors import CheckpointError, ModelNotFoundError, UnsafeFileError
from frolic.lora.adapter import Adapter
from frolic.lora.layer import Attached


def output(adapter: Adapter, weight: float = 1.0) -> Tensor:
    net = model()
    attached = Attached(net, {"it": adapter})
    attached.use({"it": weight})
    return net(*inputs())


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_says_the_same(tmp_path: Path, name: str) -> None:
    given = factors()
    plain = model()
    adapter = read(write(tmp_path, name, given), goal())
    wanted = expected(plain, given, weight=0.7)(*inputs())
    assert (wanted - plain(*inputs())).abs().max() > 0.05
    torch.testing.assert_close(output(adapter, 0.7), wanted, rtol=0, atol=1e-5)


def test_what_ai_toolkit_wrote_is_called_so(tmp_path: Path) -> None:
    names = {read(write(tmp_path, name, factors()), goal()).dialect for name in DIALECTS if name.startswith("ai_")}
    kinds = {"ComfyUI", "diffusers", "diffusers), LoKr", "LyCORIS), LoKr"}
    assert names == {f"ai-toolkit ({kind}" + ("" if ")" in kind else ")") for kind in kinds}


def test_a_peft_folder(tmp_path: Path) -> None:
    given = factors()
    adapter = read(write_peft_folder(tmp_path / "folder", given), goal())
    torch.testing.assert_close(output(adapter), expected(model(), given)(*inputs()), rtol=0, atol=1e-5)
    assert adapter.dialect == "PEFT"


def test_split_factors_of_their_own_for_a_layer_that_is_one_here(tmp_path: Path) -> None:
    given = factors(split_alike=False)
    adapter = read(write(tmp_path, "diffusers", given), goal())
    torch.testing.assert_close(output(adapter), expected(model(), given)(*inputs()), rtol=0, atol=1e-5)
    assert adapter.deltas["blocks.0.attn.qkv"].rank == 3 * RANK
    assert read(write(tmp_path, "comfy", factors()), goal()).deltas["blocks.0.attn.qkv"].rank == RANK


def test_rank_stabilised_and_patterns_of_alpha(tmp_path: Path) -> None:
    given = {name: pair for name, pair in factors().items() if "attn" in name}
    tensors, _ = dialects.diffusers(given)
    settings = {
        "transformer.r": RANK, "transformer.lora_alpha": 2.0, "transformer.use_rslora": True,
        "transformer.alpha_pattern": {"attn1.to_q": 8.0},
    }  # fmt: skip
    path = tmp_path / "a.safetensors"
    save(tensors, path, metadata={"lora_adapter_metadata": json.dumps(settings)})
    adapter = read(path, goal())
    qkv = adapter.deltas["blocks.1.attn.qkv"].change()
    for part, (name, alpha) in enumerate((("q", 8.0), ("k", 2.0), ("v", 2.0))):
        down, up = given[f"transformer_blocks.1.attn1.to_{name}"]
        torch.testing.assert_close(qkv.chunk(3)[part], up @ down * (alpha / RANK**0.5))


def test_dora_as_peft_defines_it(tmp_path: Path) -> None:
    given = factors()
    plain = model()
    weights = dict(plain.named_modules())
    tensors, metadata = dialects.diffusers(given)
    merged = model()
    place = goal()
    generator = torch.Generator().manual_seed(8)
    for linear in place.shapes:
        names = place.names.spoken(linear, "diffusers")
        rows = []
        for part, name in zip(weights[linear].weight.chunk(len(names)), names, strict=True):
            down, up = given[name]
            magnitude = part.norm(dim=1) * (1 + 0.2 * torch.rand(len(part), generator=generator))
            total = part + up @ down * (ALPHA / RANK)
            rows.append(total * (magnitude / total.norm(dim=1))[:, None])
            key = f"transformer.{name}.lora_magnitude_vector"
            tensors[f"{key}.weight" if "attn2" in name else key] = magnitude  # both are met
        dict(merged.named_modules())[linear].weight.copy_(torch.cat(rows))
    save(tensors, tmp_path / "a.safetensors", metadata=metadata)
    adapter = read(tmp_path / "a.safetensors", goal())
    assert "DoRA" in adapter.dialect
    torch.testing.assert_close(output(adapter), merged(*inputs()), rtol=0, atol=2e-5)
    assert torch.equal(output(adapter, 0.0), plain(*inputs()))


def test_an_alpha_in_the_file_is_divided_by_the_rank_whatever_was_trained_with(tmp_path: Path) -> None:
    """LyCORIS with ``rs_lora`` writes an alpha that makes up for its other divisor."""
    tensors, _ = dialects.comfy(factors())
    for said in ({}, {"ss_network_args": json.dumps({"rs_lora": "True"})}):
        save({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "a.safetensors", metadata=said)
        adapter = read(tmp_path / "a.safetensors", goal())
        torch.testing.assert_close(output(adapter), expected(model(), factors())(*inputs()), rtol=0, atol=1e-5)


def test_biases(tmp_path: Path) -> None:
    given = {"transformer_blocks.0.attn2.to_q": factors()["transformer_blocks.0.attn2.to_q"]}
    tensors, metadata = dialects.diffusers(given)
    tensors["transformer.transformer_blocks.0.attn2.to_q.lora_B.bias"] = torch.ones(32)
    tensors["transformer.transformer_blocks.1.attn2.to_v.diff_b"] = torch.full((32,), 0.5)
    save(tensors, tmp_path / "a.safetensors", metadata=metadata)
    adapter = read(tmp_path / "a.safetensors", goal())
    assert torch.equal(adapter.deltas["blocks.0.cross.q"].bias, torch.full((32,), ALPHA / RANK))
    assert torch.equal(adapter.deltas["blocks.1.cross.kv"].bias, torch.tensor([0.0] * 32 + [0.5] * 32))
    merged = expected(model(), {**{k: (a, b * 0) for k, (a, b) in factors().items()}, **given})
    merged.blocks[0].cross.q.bias.add_(ALPHA / RANK)
    merged.blocks[1].cross.kv.bias[32:] += 0.5
    torch.testing.assert_close(output(adapter), merged(*inputs()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "kind", ["truncated", "nan", "foreign", "pickle", "nothing", "shape", "half", "twice", "oft", "text"]
)
def test_bad_files_are_refused_whole(tmp_path: Path, kind: str) -> None:
    given = factors()
    tensors, metadata = dialects.comfy(given)
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    path = tmp_path / "a.safetensors"
    error: type[Exception] = CheckpointError
    match = ""
    first = "diffusion_model.blocks.0.attn.qkv"
    if kind == "nan":
        tensors[f"{first}.lora_up.weight"][0, 0] = torch.nan
        match = "not finite"
    elif kind == "foreign":
        tensors = {key.replace("blocks.", "double_blocks."): tensor for key, tensor in tensors.items()}
        match = "of no layer of this model"
    elif kind == "nothing":
        tensors, match = {"x": torch.ones(1)}, "not of an adapter"
    elif kind == "shape":
        tensors[f"{first}.lora_up.weight"] = torch.ones(7, RANK)
        match = "is for a layer of 7x32, and this one is 96x32"
    elif kind == "half":
        del tensors[f"{first}.lora_up.weight"]
        match = "has only down"
    elif kind == "twice":
        tensors["lora_unet_blocks_0_attn_qkv.lora_down.weight"] = tensors[f"{first}.lora_down.weight"].clone()
        tensors["lora_unet_blocks_0_attn_qkv.lora_up.weight"] = tensors[f"{first}.lora_up.weight"].clone()
        match = "twice"
    elif kind == "oft":
        tensors[f"{first}.oft_blocks"] = torch.ones(2, 2)
        match = "OFT"
    elif kind == "text":
        tensors["lora_te_text_model.lora_down.weight"] = torch.ones(2, 2)
        match = "of a text encoder"
    save(tensors, path, metadata=metadata)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
        match = "cut short"
    elif kind == "pickle":
        path = tmp_path / "a.pt"
        torch.save(tensors, path)
        error, match = UnsafeFileError, "pickle"
    with pytest.raises(error, match=match):
        read(path, goal())


def test_allow_partial_takes_the_rest(tmp_path: Path) -> None:
    tensors, _ = dialects.comfy(factors())
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    tensors["diffusion_model.blocks.7.attn.qkv.lora_down.weight"] = torch.ones(2, 32)
    save(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"or pass --allow-partial(?s:.)*(near blocks\.1|blocks\.7)"):
        read(tmp_path / "a.safetensors", goal())
    adapter = read(tmp_path / "a.safetensors", goal(), allow_partial=True)
    assert adapter.deltas.keys() == goal().shapes.keys()
    save({"x": torch.ones(1)}, tmp_path / "b.safetensors")
    for allowed in (False, True):
        with pytest.raises(CheckpointError, match=r"load it with its own:(?s:.)*nothing in it"):
            read(tmp_path / "b.safetensors", goal(), allow_partial=allowed)


def test_a_folder_with_nothing_or_too_much(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no adapter"):
        read(tmp_path / "absent", goal())
    with pytest.raises(ModelNotFoundError, match=r"no \.safetensors"):
        read(tmp_path, goal())
    for name in "ab":
        save({"x": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"2 \.safetensors files"):
        read(tmp_path, goal())
