"""Adapters for Wan: every dialect they are written in, and the expert they are for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import frolic
from frolic.adapters import read, target, write
from frolic.adapters.write import encode
from frolic.errors import CheckpointError
from frolic.lora.adapter import Adapter
from frolic.lora.delta import Delta
from frolic.lora.layer import Attached
from frolic.models.wan import WanTransformer, diffusers_keys, original_keys
from frolic.models.wan.spec import WAN
from frolic.strength import Strength
from tiny_wan import write_tiny_wan

RANK, ALPHA = 3, 6.0
SPEC = WAN.components["transformer"]
# What VideoX-Fun adapts: the linears of the blocks, and those before and behind them.
LAYERS = (
    *[f"blocks.{n}.{kind}_attn.{p}" for n in (0, 1) for kind in ("self", "cross") for p in "qkvo"],
    *("blocks.0.ffn.0", "blocks.1.ffn.2", "text_embedding.0", "time_embedding.2", "time_projection.1", "head.head"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_wan(tmp_path_factory.mktemp("wan") / "tiny", "t2v-two")


@pytest.fixture
def net(folder: Path) -> WanTransformer:
    pipe = frolic.load(folder, device="cpu", dtype="float32")
    transformer = pipe.transformer
    assert isinstance(transformer, WanTransformer)
    return transformer


def factors(net: WanTransformer) -> dict[str, tuple[Tensor, Tensor]]:
    """Down and up by the authors' names."""
    shapes = {key: value.shape for key, value in original_keys(net.config).save(net.state_dict()).items()}
    generator = torch.Generator().manual_seed(1)
    made = {}
    for name in LAYERS:
        rows, columns = shapes[f"{name}.weight"]
        down = torch.randn(RANK, columns, generator=generator) / columns**0.5
        made[name] = (down, 0.3 * torch.randn(rows, RANK, generator=generator))
    return made


def diffusers_name(net: WanTransformer, name: str) -> str:
    ours, theirs = original_keys(net.config).ours(f"{name}.weight"), diffusers_keys(net.config)
    parts = theirs.theirs(ours)
    return parts[original_keys(net.config).theirs(ours).index(f"{name}.weight")].removesuffix(".weight")


def dialect(net: WanTransformer, form: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    out: dict[str, Tensor] = {}
    for name, (down, up) in factors(net).items():
        if form == "diffusers":
            key = f"transformer.{diffusers_name(net, name)}"
            out[f"{key}.lora_A.weight"], out[f"{key}.lora_B.weight"] = down, up * (ALPHA / RANK)
            continue
        flat = name.replace(".", "_")
        key = {
            "videox": f"lora_unet__{flat}",
            "musubi": f"lora_unet_{flat}",
            "comfy": f"diffusion_model.{name}",
            "peft": f"base_model.model.{name}",
        }[form]
        ends = ("lora_A.weight", "lora_B.weight") if form == "peft" else ("lora_down.weight", "lora_up.weight")
        out[f"{key}.{ends[0]}"], out[f"{key}.{ends[1]}"] = down, up
        if form != "peft":
            out[f"{key}.alpha"] = torch.tensor(int(ALPHA)) if form == "comfy" else torch.tensor(ALPHA).bfloat16()
    return out, {"ss_network_dim": str(RANK), "ss_network_alpha": str(ALPHA)}


def predict(net: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x, text = torch.randn(1, 4, 3, 4, 4, generator=generator), torch.randn(1, 8, 16, generator=generator)
    with torch.no_grad():
        return net(x, torch.tensor([700.0]), text, torch.ones(1, 8, dtype=torch.bool))  # type: ignore[no-any-return]


def merged(net: WanTransformer) -> Tensor:
    """The change added to the weights by hand, in the authors' names."""
    state = original_keys(net.config).save(net.state_dict())
    for name, (down, up) in factors(net).items():
        state[f"{name}.weight"] = state[f"{name}.weight"] + (ALPHA / RANK) * up @ down
    other = WanTransformer(net.config).eval()
    other.load_state_dict(original_keys(net.config).load(state))
    return predict(other)


@pytest.mark.parametrize("form", ["diffusers", "videox", "musubi", "comfy"])
def test_every_dialect_is_the_same_change(net: WanTransformer, form: str, tmp_path: Path) -> None:
    plain, expected = predict(net), merged(net)
    tensors, metadata = dialect(net, form)
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    adapter = read(tmp_path / "a.safetensors", target(SPEC, net.config, net))
    attached = Attached(net, {"a": adapter}, {})
    with attached.using(attached.tensor({"a": 1.0})):
        got = predict(net)
    attached.remove()
    assert (got - expected).abs().max() < 1e-5 < (expected - plain).abs().max()
    assert torch.equal(predict(net), plain)


def test_factors_of_the_patches_have_the_dimensions_of_their_convolution(net: WanTransformer) -> None:
    goal = target(SPEC, net.config, net)
    rows, columns = goal.shapes["patch"]
    made = encode(Adapter({"patch": Delta(torch.ones(2, columns), torch.ones(rows, 2))}), goal, "diffusers")
    weight = diffusers_keys(net.config).save(net.state_dict())["patch_embedding.weight"]
    down, up = (made[f"transformer.patch_embedding.lora_{end}.weight"] for end in "AB")
    assert down.shape == (2, *weight.shape[1:]) and up.shape == (rows, 2, 1, 1, 1)


@pytest.mark.parametrize("form", ["diffusers", "comfy", "kohya"])
def test_what_is_written_is_read_as_the_same(net: WanTransformer, form: str, tmp_path: Path) -> None:
    goal = target(SPEC, net.config, net)
    tensors, metadata = dialect(net, "comfy")
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    adapter = read(tmp_path / "a.safetensors", goal)
    write(adapter, tmp_path / "b.safetensors", goal, form, dtype=torch.float32)
    again = read(tmp_path / "b.safetensors", goal)
    assert again.deltas.keys() == adapter.deltas.keys()
    for name, delta in adapter.deltas.items():
        assert (again.deltas[name].change() - delta.change()).abs().max() < 1e-5


def test_diffusers_with_peft_applies_what_is_written(net: WanTransformer, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    goal = target(SPEC, net.config, net)
    tensors, metadata = dialect(net, "videox")
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    write(read(tmp_path / "a.safetensors", goal), tmp_path / "b.safetensors", goal, "diffusers", dtype=torch.float32)
    settings = {name: value for name, value in net.config.to_json().items() if not name.startswith("_")}
    theirs = diffusers.WanTransformer3DModel(**settings).eval()
    theirs.load_state_dict(diffusers_keys(net.config).save(net.state_dict()))
    theirs.load_lora_adapter(tmp_path, weight_name="b.safetensors", prefix="transformer")
    generator = torch.Generator().manual_seed(2)
    x, text = torch.randn(1, 4, 3, 4, 4, generator=generator), torch.randn(1, 8, 16, generator=generator)
    padded = torch.cat([text, text.new_zeros(1, 504, 16)], 1)
    with torch.no_grad():
        got = theirs(x, torch.tensor([700.0]), padded, return_dict=False)[0]
    assert (got - merged(net)).abs().max() < 1e-5


def test_an_adapter_of_wan21_image_models_is_said_not_to_fit(net: WanTransformer, tmp_path: Path) -> None:
    tensors, metadata = dialect(net, "videox")
    tensors["lora_unet__blocks_0_cross_attn_k_img.lora_down.weight"] = torch.randn(RANK, 48)
    tensors["lora_unet__blocks_0_cross_attn_k_img.lora_up.weight"] = torch.randn(48, RANK)
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match="k_img"):
        read(tmp_path / "a.safetensors", target(SPEC, net.config, net))


def test_files_go_to_the_expert_that_they_are_for(folder: Path, net: WanTransformer, tmp_path: Path) -> None:
    tensors, metadata = dialect(net, "videox")
    for name in ("x-high-noise", "x-low-noise", "x"):
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata=metadata)
    given = {"seed": 3, "steps": 6, "frames": 5, "height": 32, "width": 32, "output": "tensor"}

    def drawn(loras: dict[str, object], pipe: frolic.Pipeline | None = None) -> Tensor:
        pipe = pipe or frolic.load(folder, device="cpu", dtype="float32")
        pixels = pipe("two dogs", loras=loras, **given).pixels
        assert pixels is not None
        return pixels

    high, low, both = (str(tmp_path / f"{name}.safetensors") for name in ("x-high-noise", "x-low-noise", "x"))
    plain = drawn({})
    alone = {"high": drawn({high: 1.0}), "low": drawn({low: 1.0})}
    assert torch.equal(drawn({both: Strength(1.0, target="high")}), alone["high"])
    assert torch.equal(drawn({both: Strength(1.0, target="low")}), alone["low"])
    assert torch.equal(drawn({high: Strength(1.0, target="low")}), alone["low"]), (
        "what is asked for counts before names"
    )
    together = drawn({high: 1.0, low: 1.0})
    assert torch.equal(together, drawn({both: 1.0}))
    made = [plain, alone["high"], alone["low"], together]
    assert all((a - b).abs().max() > 1e-4 for n, a in enumerate(made) for b in made[n + 1 :])
    # One pipeline, changed between calls, with the experts read one after the other too.
    pipe = frolic.load(folder, device="cpu", dtype="float32", memory="low")
    for loras, expected in (
        ({high: 1.0}, alone["high"]),
        ({low: 1.0}, alone["low"]),
        ({}, plain),
        ({both: 1.0}, together),
    ):
        assert torch.equal(drawn(loras, pipe), expected)


def test_a_file_with_both_experts_by_diffusers_names(folder: Path, net: WanTransformer, tmp_path: Path) -> None:
    tensors, _ = dialect(net, "diffusers")
    second = {key.replace("transformer.", "transformer_2.", 1): -value for key, value in tensors.items()}
    save_file({**tensors, **second}, tmp_path / "pair.safetensors")
    save_file(second, tmp_path / "second.safetensors")
    save_file(tensors, tmp_path / "first.safetensors", metadata={"frolic.expert": "high"})
    given = {"seed": 3, "steps": 6, "frames": 5, "height": 32, "width": 32, "output": "tensor"}
    pipe = frolic.load(folder, device="cpu", dtype="float32")

    def drawn(*names: str) -> Tensor:
        pixels = pipe("two dogs", loras={str(tmp_path / f"{name}.safetensors"): 1.0 for name in names}, **given).pixels
        assert pixels is not None
        return pixels

    assert torch.equal(drawn("pair"), drawn("first", "second"))
    assert not torch.equal(drawn("pair"), drawn("first"))
