"""Adapters against diffusers with PEFT, and against ComfyUI's own arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dialects import ALPHA, RANK, factors, goal, inputs, model, write
from frolic.adapters import read
from frolic.adapters import write as write_adapter
from frolic.lora.layer import Attached
from frolic.models.sana.spec import SANA


@pytest.fixture(scope="module")
def plain() -> Any:
    return model()


def diffusers_model(plain: Any) -> Any:
    from diffusers import SanaTransformer2DModel

    component = SANA.components["transformer"]
    config = {key: value for key, value in plain.config.to_json().items() if not key.startswith("_")}
    theirs = SanaTransformer2DModel(**config)
    theirs.load_state_dict(component.keymap(plain.config).save(plain.state_dict()))
    return theirs.eval().requires_grad_(False)


def load(theirs: Any, path: Path, name: str) -> None:
    """As a pipeline's ``load_lora_weights`` does: without the file's name, diffusers does not read its metadata."""
    theirs.load_lora_adapter(str(path.parent), weight_name=path.name, adapter_name=name)


def theirs_output(theirs: Any) -> Tensor:
    x, t, text, mask = inputs()
    out: Tensor = theirs(x, text, t, encoder_attention_mask=mask.long(), return_dict=False)[0]
    return out


def ours_output(plain: Any, weights: Mapping[str, float], files: Mapping[str, Path]) -> Tensor:
    attached = Attached(plain, {name: read(path, goal()) for name, path in files.items()})
    attached.use(weights)
    try:
        out: Tensor = plain(*inputs())
        return out
    finally:
        attached.remove()


@pytest.mark.parametrize("split_alike", [True, False], ids=["shared", "split"])
def test_diffusers_applies_the_same(tmp_path: Path, plain: Any, split_alike: bool) -> None:
    path = write(tmp_path, "diffusers", factors(split_alike=split_alike))
    theirs = diffusers_model(plain)
    load(theirs, path, "it")
    theirs.set_adapters(["it"], [0.7])
    ours = ours_output(plain, {"it": 0.7}, {"it": path})
    assert (ours - plain(*inputs())).abs().max() > 0.05
    torch.testing.assert_close(ours, theirs_output(theirs), rtol=0, atol=1e-5)


def test_what_we_write_diffusers_applies_as_strongly(tmp_path: Path, plain: Any) -> None:
    """From a file whose alpha is not its rank, by way of ours."""
    source = write(tmp_path, "comfy", factors())
    path = tmp_path / "pytorch_lora_weights.safetensors"
    write_adapter(read(source, goal()), path, goal(), "diffusers", dtype=torch.float32)
    theirs = diffusers_model(plain)
    load(theirs, path, "it")
    torch.testing.assert_close(
        ours_output(plain, {"it": 1.0}, {"it": source}), theirs_output(theirs), rtol=0, atol=1e-5
    )


def test_several_at_once(tmp_path: Path, plain: Any) -> None:
    files = {}
    theirs = diffusers_model(plain)
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        (tmp_path / name).mkdir()
        files[name] = write(tmp_path / name, "diffusers", factors(seed))
        load(theirs, files[name], name)
    weights = {"a": 0.6, "b": -0.4, "c": 1.2}
    theirs.set_adapters(list(weights), list(weights.values()))
    torch.testing.assert_close(ours_output(plain, weights, files), theirs_output(theirs), rtol=0, atol=2e-5)


def test_peft_s_linear_combination_is_another_matrix(plain: Any) -> None:
    """``add_weighted_adapter(combination_type="linear")`` mixes the factors and not their products: the counter-example
    to a blend. Its ``cat`` is exact."""
    from peft import LoraConfig, get_peft_model

    net = torch.nn.Sequential(torch.nn.Linear(32, 32, bias=False))
    wrapped = get_peft_model(net, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0"]), adapter_name="a")
    wrapped.add_adapter("b", LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0"]))
    layer = wrapped.base_model.model[0]
    generator = torch.Generator().manual_seed(1)
    for name in "ab":
        layer.lora_A[name].weight.data = torch.randn(RANK, 32, generator=generator)
        layer.lora_B[name].weight.data = torch.randn(32, RANK, generator=generator)
    exact = 0.6 * layer.get_delta_weight("a") + 0.4 * layer.get_delta_weight("b")
    errors = {}
    for kind in ("linear", "cat"):
        wrapped.add_weighted_adapter(["a", "b"], [0.6, 0.4], kind, combination_type=kind)
        errors[kind] = float((layer.get_delta_weight(kind) - exact).norm() / exact.norm())
    assert errors["cat"] < 1e-6 < 0.5 < errors["linear"]


def comfy_weight(weight: Tensor, tensors: Mapping[str, Tensor], key: str, strength: float) -> Tensor:
    """What ComfyUI's loader makes of a weight: ``strength alpha / rank (up @ down)``, added in float32; without an
    alpha the scale is 1."""
    if f"{key}.diff" in tensors:
        return weight + strength * tensors[f"{key}.diff"]
    down, up = tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"]
    alpha = tensors.get(f"{key}.alpha")
    scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
    return weight + strength * scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)


@pytest.mark.parametrize("source", ["diffusers", "comfy", "kohya", "loha"])
def test_comfy_s_arithmetic_gives_the_same_change(tmp_path: Path, plain: Any, source: str) -> None:
    from safetensors.torch import load_file

    given = factors()
    adapter = read(write(tmp_path, source, given), goal())
    write_adapter(adapter, tmp_path / "c.safetensors", goal(), "comfy", dtype=torch.float32)
    tensors = load_file(tmp_path / "c.safetensors")
    state = SANA.components["transformer"].layouts["original"](plain.config).save(plain.state_dict())
    place = goal()
    for linear in place.shapes:
        (name,) = place.names.spoken(linear, "original")
        theirs = place.names.spoken(linear, "diffusers")
        change = torch.cat([given[each][1] @ given[each][0] for each in theirs]) * ALPHA / RANK
        weight = state[f"{name}.weight"]
        made = comfy_weight(weight, tensors, f"diffusion_model.{name}", 0.7)
        torch.testing.assert_close(made - weight, 0.7 * change.reshape(weight.shape), rtol=0, atol=1e-5)
