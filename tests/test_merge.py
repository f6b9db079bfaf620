"""``frolic.convert.merged``: a model's folder with adapters in its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import frolic
from dialects import save
from frolic.convert.merged import RECIPE, merge
from frolic.errors import CheckpointError, FileError, NumericsError
from frolic.io.safetensors import load, read_header
from frolic.plan.find import shipped_or_path
from tiny import write_tiny_folder
from tiny_wan import write_tiny_wan

LAYERS = ("attn1.to_q", 32, 32), ("attn1.to_k", 32, 32), ("attn2.to_out.0", 32, 32), ("ff.conv_inverted", 160, 32)
WEIGHTS = Path("transformer") / "diffusion_pytorch_model.safetensors"


def adapter(path: Path, seed: int, scale: float = 0.4, **more: Tensor) -> str:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in range(2):
        for name, rows, columns in LAYERS:
            key = f"transformer.transformer_blocks.{block}.{name}"
            tail = (1, 1) if "conv" in name else ()
            down, up = torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator)
            tensors[f"{key}.lora_A.weight"] = (down / columns**0.5).reshape(2, columns, *tail)
            tensors[f"{key}.lora_B.weight"] = (scale * up).reshape(rows, 2, *tail)
    save({**tensors, **more}, path)
    return str(path)


@pytest.fixture
def pair(tmp_path: Path) -> list[tuple[str, float]]:
    magnitude = {"transformer.transformer_blocks.0.attn2.to_out.0.lora_magnitude_vector": torch.full((32,), 0.7)}
    return [
        (adapter(tmp_path / "glow.safetensors", 1), 0.8),
        (adapter(tmp_path / "dusk.safetensors", 2, **magnitude), -0.3),
    ]


def drawn(model: Path, loras: dict[str, float]) -> Tensor:
    pixels = frolic.load(model)("a red panda", seed=3, steps=4, output="tensor", loras=loras).pixels
    assert pixels is not None
    return pixels


def test_it_draws_what_the_blend_draws(tiny_folder: Path, tmp_path: Path, pair: list[tuple[str, float]]) -> None:
    done = merge(tiny_folder, pair, tmp_path / "merged")
    blended = drawn(tiny_folder, dict(pair))
    assert (drawn(tiny_folder, {}) - blended).abs().max() > 0.05
    torch.testing.assert_close(drawn(tmp_path / "merged", {}), blended, rtol=0, atol=5e-4)
    # q and k of a layer that is one here, and the projections: three linears a block.
    assert done.layers == 6 and done.left_out == {}
    recipe = json.loads(read_header(tmp_path / "merged" / WEIGHTS).metadata[RECIPE])
    assert [(each["name"], each["weight"]) for each in recipe] == [("glow", 0.8), ("dusk", -0.3)]
    assert all(len(each["sha256"]) == 64 for each in recipe)
    own = json.loads((tmp_path / "merged" / "frolic.json").read_text())
    assert "name" not in own and own["steps"] == 3, "it is another model, that is used as the old one"


def test_what_no_adapter_is_for_is_the_same_to_the_bit(
    tiny_folder: Path, tmp_path: Path, pair: list[tuple[str, float]]
) -> None:
    merge(tiny_folder, pair, tmp_path / "merged")
    before, after = load(tiny_folder / WEIGHTS), load(tmp_path / "merged" / WEIGHTS)
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {f"transformer_blocks.{block}.{name}.weight" for block in range(2) for name, *_ in LAYERS}
    other = Path("vae") / "diffusion_pytorch_model.safetensors"
    assert (tiny_folder / other).read_bytes() == (tmp_path / "merged" / other).read_bytes()


def test_half_precision_is_rounded_once(tmp_path: Path) -> None:
    model = write_tiny_folder(tmp_path / "model", dtype=torch.bfloat16)
    parts = [(adapter(tmp_path / "glow.safetensors", 1), 0.5), (adapter(tmp_path / "dusk.safetensors", 2), 0.25)]
    merge(model, parts, tmp_path / "half")
    merge(model, parts, tmp_path / "full", dtype="float32")
    half, full = load(tmp_path / "half" / WEIGHTS), load(tmp_path / "full" / WEIGHTS)
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}
    assert all(torch.equal(half[key], full[key].bfloat16()) for key in half)


def test_nothing_is_left_of_what_fails(tiny_folder: Path, tmp_path: Path, pair: list[tuple[str, float]]) -> None:
    out = tmp_path / "out"
    bias = {"transformer.transformer_blocks.0.attn1.to_q.lora_B.bias": torch.ones(32)}
    with pytest.raises(CheckpointError, match=r"no bias to merge one into: blocks\.0\.attn\.qkv"):
        merge(tiny_folder, [(adapter(tmp_path / "glow.safetensors", 1, **bias), 1.0)], out)
    with pytest.raises(NumericsError, match="not finite"):
        merge(tiny_folder, [(adapter(tmp_path / "glow.safetensors", 1, 1e30), 100.0)], out, dtype="float16")
    foreign = {"transformer.other.lora_A.weight": torch.ones(2, 32)}
    with pytest.raises(CheckpointError, match="of no layer of this model"):
        merge(tiny_folder, [(adapter(tmp_path / "glow.safetensors", 1, **foreign), 1.0)], out)
    assert {path.name for path in tmp_path.iterdir()} <= {"glow.safetensors", "dusk.safetensors"}
    done = merge(tiny_folder, [(str(tmp_path / "glow.safetensors"), 1.0)], out, allow_partial=True)
    assert done.left_out == {"glow": ("transformer.other.lora_A.weight",)}


def test_a_bias_is_added_where_there_is_one(tiny_folder: Path, tmp_path: Path) -> None:
    bias = {"transformer.transformer_blocks.0.attn2.to_out.0.lora_B.bias": torch.ones(32)}
    source = adapter(tmp_path / "glow.safetensors", 1, **bias)
    merge(tiny_folder, [(source, 0.5)], tmp_path / "merged")
    torch.testing.assert_close(drawn(tmp_path / "merged", {}), drawn(tiny_folder, {source: 0.5}), rtol=0, atol=5e-4)
    key = "transformer_blocks.0.attn2.to_out.0.bias"
    before, after = load(tiny_folder / WEIGHTS), load(tmp_path / "merged" / WEIGHTS)
    torch.testing.assert_close(after[key], before[key] + 0.5)


def test_a_model_is_replaced_only_when_asked_and_never_by_itself(
    own_folder: Path, tmp_path: Path, pair: list[tuple[str, float]]
) -> None:
    merge(own_folder, pair, tmp_path / "merged")
    with pytest.raises(FileError, match="already exists"):
        merge(own_folder, pair[:1], tmp_path / "merged")
    merge(own_folder, pair[:1], tmp_path / "merged", force=True)
    assert json.loads(read_header(tmp_path / "merged" / WEIGHTS).metadata[RECIPE])[0]["name"] == "glow"
    with pytest.raises(FileError, match="is read for it"):
        merge(own_folder, pair, own_folder, force=True)


def test_each_of_two_experts_gets_what_is_for_it(tmp_path: Path) -> None:
    model = write_tiny_wan(tmp_path / "model", "t2v-two")
    sources = {}
    for name, seed in (("x-high-noise", 1), ("x-low-noise", 2), ("both", 3)):
        generator = torch.Generator().manual_seed(seed)
        transformer = load(model / WEIGHTS)
        rows, columns = transformer["blocks.0.attn1.to_q.weight"].shape
        key = "transformer.blocks.0.attn1.to_q"
        tensors = {
            f"{key}.lora_A.weight": torch.randn(2, columns, generator=generator),
            f"{key}.lora_B.weight": torch.randn(rows, 2, generator=generator),
        }
        save(tensors, tmp_path / f"{name}.safetensors")
        sources[name] = str(tmp_path / f"{name}.safetensors")

    def clip(folder: Path, loras: dict[str, float]) -> Tensor:
        given: Any = {"seed": 3, "steps": 6, "frames": 5, "height": 32, "width": 32, "output": "tensor"}
        pixels = frolic.load(folder, device="cpu", dtype="float32")("two dogs", loras=loras, **given).pixels
        assert pixels is not None
        return pixels

    parts = [(sources["x-high-noise"], 0.8), (sources["x-low-noise"], 0.5), (sources["both"], 0.3)]
    done = merge(model, parts, tmp_path / "merged", dtype="float32")
    assert done.names == ("x-high-noise", "both", "x-low-noise") and done.layers == 2
    blended = clip(model, dict(parts))
    assert (clip(model, {}) - blended).abs().max() > 1e-3
    torch.testing.assert_close(clip(tmp_path / "merged", {}), blended, rtol=0, atol=5e-4)
    done = merge(model, parts[1:2], tmp_path / "low")
    assert (tmp_path / "low" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes(), "the other one is as it was"
    torch.testing.assert_close(clip(tmp_path / "low", {}), clip(model, dict(parts[1:2])), rtol=0, atol=5e-4)


def test_what_is_stored_in_eight_bits_keeps_what_is_added(tmp_path: Path) -> None:
    """The shipped starter, whose float8 would round most of an adapter away."""
    done = merge("starter", [("sketch", 0.9)], tmp_path / "merged")
    was, now = load(shipped_or_path("starter") / WEIGHTS), load(tmp_path / "merged" / WEIGHTS)
    changed = [name for name in was if was[name].dtype != now[name].dtype]
    assert done.layers == 42 and len(changed) > 42, "a fused layer of ours is three of theirs"
    assert {now[name].dtype for name in changed} == {torch.bfloat16}
    assert all(torch.equal(was[name].float(), now[name].float()) for name in was.keys() - set(changed))

    def drawn(model: str | Path, **loras: float) -> Tensor:
        pixels = frolic.load(model)("a cat", seed=1, steps=2, output="tensor", loras=dict(loras)).pixels
        assert pixels is not None
        return pixels

    added = drawn("starter", sketch=0.9)
    # bfloat16 takes 1 % of what the adapter did away; float8 takes half of it.
    rounded, done_by_it = (added - drawn(tmp_path / "merged")).abs().mean(), (added - drawn("starter")).abs().mean()
    assert rounded < 0.02 * done_by_it
