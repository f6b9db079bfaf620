from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import frolic
from frolic.errors import CheckpointError, ModelNotFoundError, NetworkError, RequestError, ResourceError
from frolic.io import safetensors
from frolic.io.safetensors import Entry
from frolic.plan import make_plan
from frolic.plan.dtypes import choose_dtypes
from frolic.spec import Published
from tiny import write_tiny_folder

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def half_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("half") / "tiny", dtype=torch.bfloat16)


def respoil(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (None) drop tensors of the transformer."""
    tensors = safetensors.load(folder / WEIGHTS)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    safetensors.save(tensors, folder / WEIGHTS, force=True)


def test_the_cpu_gets_float32(half_folder: Path) -> None:
    plan = make_plan(half_folder, device="cpu")
    assert plan.dtype == torch.float32 and plan.device.type == "cpu" and len(plan.weights) == 3
    pipe = frolic.load(half_folder, device="cpu")
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in pipe.transformer.parameters())  # type: ignore[attr-defined]


def test_half_precision_is_the_checkpoints_own(half_folder: Path) -> None:
    assert make_plan(half_folder, dtype="bfloat16", device="cpu").dtype == torch.bfloat16
    with pytest.raises(RequestError, match="not safe in float16; use --dtype float32 or bfloat16"):
        make_plan(half_folder, dtype="float16", device="cpu")
    with pytest.raises(RequestError, match="did you mean 'bfloat16'"):
        make_plan(half_folder, dtype="bfloat", device="cpu")


def stored(*kinds: torch.dtype) -> dict[str, dict[str, Entry]]:
    """A transformer with one tensor of each of ``kinds``; the first is the largest."""
    tensors = {str(number): Entry(Path("x"), kind, (9 - number,), 0, 0) for number, kind in enumerate(kinds)}
    return {"transformer": tensors, "vae": {}, "text_encoder": {}}


def chosen(name: str, device: str, kinds: tuple[torch.dtype, ...]) -> torch.dtype:
    return choose_dtypes(name, torch.device(device), stored(*kinds), None, (), {})["transformer"]


F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("kinds", "elsewhere"),
    [
        ((F32,), F32),
        ((BF16,), BF16),
        ((F16,), F16),
        ((BF16, F32), BF16),
        ((F32, BF16), F32),
        ((BF16, F16), F32),
        ((F16, torch.int64), F16),
        ((torch.float8_e4m3fn, BF16), BF16),
        ((), F32),
    ],
)
def test_auto_is_what_the_checkpoint_is_mostly_stored_in(kinds: tuple[torch.dtype, ...], elsewhere: object) -> None:
    assert chosen("auto", "mps", kinds) == elsewhere
    assert chosen("auto", "cpu", kinds) == torch.float32


def test_torchs_own_names_are_understood(tiny_folder: Path) -> None:
    plan = make_plan(tiny_folder, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert plan.device == torch.device("cpu") and plan.dtype == BF16
    assert make_plan(tiny_folder, device=None, dtype=None).dtype == F32
    for wrong in (torch.int64, 3):
        with pytest.raises(RequestError, match="give auto, float32, bfloat16, float16"):
            make_plan(tiny_folder, dtype=wrong)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="is not a device"):
        make_plan(tiny_folder, device=3.5)  # type: ignore[arg-type]


def test_an_unsafe_type_is_refused_with_the_safe_ones() -> None:
    assert chosen("bf16", "cpu", (F32,)) == BF16
    with pytest.raises(RequestError, match="not safe in float16; use --dtype float32 or bfloat16"):
        chosen("float16", "cpu", (F32,))
    with pytest.raises(RequestError, match=r"not safe in float16; use --dtype float32\."):
        chosen("float16", "cpu", (F16, BF16))


FAMILY = {"vae": ("bfloat16", "float32"), "text_encoder": ("bfloat16", "float32")}
HALF = {"transformer": ("float16", "float32"), **FAMILY}
BRAIN = {"transformer": ("bfloat16", "float32"), **FAMILY}


def published(rule: dict[str, tuple[str, ...]]) -> Published:
    return Published("sana-x", "org/x", "", None, 1024, rule)


@pytest.mark.parametrize(
    ("rule", "name", "parts"),
    [
        (HALF, "auto", (F16, BF16, BF16)),
        (HALF, "float16", (F16, BF16, BF16)),
        (HALF, "float32", (F32, F32, F32)),
        (BRAIN, "auto", (BF16, BF16, BF16)),
        (BRAIN, "bf16", (BF16, BF16, BF16)),
        (BRAIN, "fp32", (F32, F32, F32)),
    ],
)
def test_a_published_models_rule_is_followed_however_it_is_stored(
    rule: dict[str, tuple[str, ...]], name: str, parts: tuple[torch.dtype, ...]
) -> None:
    for kinds in ((F32,), (F16,), (BF16,)):
        got = choose_dtypes(name, torch.device("mps"), stored(*kinds), published(rule), (), FAMILY)
        assert (got["transformer"], got["vae"], got["text_encoder"]) == parts


@pytest.mark.parametrize(("rule", "name", "right"), [(HALF, "bfloat16", "float16"), (BRAIN, "float16", "bfloat16")])
def test_the_wrong_type_for_a_published_model_is_refused_with_the_right_one(
    rule: dict[str, tuple[str, ...]], name: str, right: str
) -> None:
    with pytest.raises(RequestError, match=f"sana-x are not safe in {name}; use --dtype float32 or {right}"):
        choose_dtypes(name, torch.device("cpu"), stored(F32), published(rule), (), FAMILY)


def test_a_familys_rule_narrows_how_it_is_stored() -> None:
    got = choose_dtypes("float16", torch.device("mps"), stored(F16), None, (), FAMILY)
    assert (got["transformer"], got["vae"], got["text_encoder"]) == (F16, BF16, BF16)


@pytest.mark.parametrize(
    ("rules", "kind", "safe"),
    [
        ((HALF, BRAIN), F32, [F32]),  # it may be either
        ((HALF, HALF), F32, [F16, F32]),
        ((BRAIN,), F32, [BF16, F32]),
        ((HALF,), BF16, [BF16, F32]),  # somebody trained it further, in bfloat16
        ((), F32, [BF16, F32]),
    ],
)
def test_what_only_looks_like_published_models_is_safe_in_what_all_of_them_are(
    rules: tuple[dict[str, tuple[str, ...]], ...], kind: torch.dtype, safe: list[torch.dtype]
) -> None:
    alike = [published(rule) for rule in rules]
    for name, dtype in (("float16", F16), ("bfloat16", BF16), ("float32", F32)):
        try:
            got = choose_dtypes(name, torch.device("mps"), stored(kind), None, alike, FAMILY)
        except RequestError:
            assert dtype not in safe
        else:
            assert dtype in safe and got["transformer"] == dtype


@pytest.mark.parametrize(("key", "value"), [("steps", 5000), ("height", 10**6), ("guidance_scale", 1e6)])
def test_defaults_beyond_a_requests_limits_are_refused(own_folder: Path, key: str, value: float) -> None:
    path = own_folder / "frolic.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=f"{key} is {value}"):
        make_plan(own_folder, device="cpu")


@pytest.mark.parametrize("error", [RuntimeError("[enforce fail] DefaultCPUAllocator: can't"), MemoryError()])
@pytest.mark.parametrize("stage", ["build", "read_into"])
def test_memory_that_ran_out_while_loading_is_said(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, stage: str
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"frolic.assemble.{stage}", full)
    with pytest.raises(ResourceError, match=r"memory of cpu; use --memory low\.") as caught:
        frolic.load(tiny_folder, device="cpu")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("stage", ["build", "read_into"])
def test_a_mistake_of_ours_while_loading_is_not_called_memory(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def wrong(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(f"frolic.assemble.{stage}", wrong)
    with pytest.raises(RuntimeError, match="a mistake"):
        frolic.load(tiny_folder, device="cpu")


def test_settings_that_nothing_can_be_built_from_are_refused(own_folder: Path) -> None:
    path = own_folder / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "decoder_block_out_channels": [6, 15, 32]}))
    with pytest.raises(CheckpointError):
        frolic.load(own_folder, device="cpu")


def test_bfloat16_draws(half_folder: Path) -> None:
    result = frolic.load(half_folder, dtype="bf16", device="cpu")("a red panda", seed=1, output="tensor")
    assert result.pixels is not None and result.pixels.dtype == torch.float32
    assert result.record()["dtype"] == "bfloat16"


@pytest.mark.parametrize("device", ["cuda:99", "banana", "xla", ""])
def test_a_device_that_is_not_there_is_refused(tiny_folder: Path, device: str) -> None:
    with pytest.raises(RequestError, match=r"device|supported"):
        make_plan(tiny_folder, device=device)


@pytest.mark.parametrize("name", ["startr", "org/repo", "", "\0", "x" * 5000])
def test_an_unknown_model_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ModelNotFoundError, NetworkError), match=r"starter|model_index|models pull org/repo"):
        make_plan(name)


def test_weights_that_do_not_fit_are_listed_together(own_folder: Path) -> None:
    respoil(
        own_folder,
        **{"proj_out.bias": None, "proj_out.bais": torch.zeros(4), "patch_embed.proj.bias": torch.zeros(5)},
    )
    shutil.copy(own_folder / WEIGHTS, own_folder / "vae/diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        frolic.load(own_folder, device="cpu")
    text = str(caught.value)
    assert "transformer: proj_out.bias (near transformer: proj_out.bais)" in text
    assert "transformer: patch_embed.proj.bias is 5, needs 32" in text
    assert "vae: " in text and "unexpected" in text


def test_every_weight_that_is_not_finite_is_named(own_folder: Path) -> None:
    respoil(
        own_folder,
        **{
            "proj_out.bias": torch.tensor([1.0, torch.nan, 0.0, 0.0]),
            "caption_norm.weight": torch.full((32,), torch.inf),
        },
    )
    with pytest.raises(CheckpointError, match=r"not finite \(2\): .*caption_norm.weight.*"):
        frolic.load(own_folder, device="cpu")


def test_loading_restores_every_weight(tiny_folder: Path) -> None:
    from frolic.models.registry import families

    pipe = frolic.load(tiny_folder, device="cpu")
    spec = families()["sana"].components["transformer"]
    saved = spec.keymap(pipe.transformer.config).save(pipe.transformer.state_dict())  # type: ignore[attr-defined]
    stored = safetensors.load(tiny_folder / WEIGHTS)
    assert saved.keys() == stored.keys() and all(torch.equal(saved[name], stored[name]) for name in stored)


def test_parts_that_do_not_belong_together_are_refused(own_folder: Path) -> None:
    for part, key, value in (("vae", "latent_channels", 16), ("text_encoder", "hidden_size", 64)):
        path = own_folder / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError) as caught:
        make_plan(own_folder, device="cpu")
    assert "latent channels (1): 16 and 4" in str(caught.value) and "text width (1): 64 and 16" in str(caught.value)


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(own_folder: Path) -> None:
    path = own_folder / "tokenizer" / "tokenizer.json"
    raw = json.loads(path.read_text())
    token = {"id": 500, "content": "<extra>", "single_word": False, "lstrip": False, "rstrip": False}
    raw["added_tokens"].append({**token, "normalized": False, "special": True})
    raw["model"]["vocab"].update({f"extra{i}": 200 + i for i in range(100)})
    path.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="tokens but the text encoder"):
        frolic.load(own_folder, device="cpu")


def test_a_model_loaded_in_inference_mode_can_be_trained(tiny_folder: Path) -> None:
    with torch.inference_mode():
        pipe = frolic.load(tiny_folder, device="cpu")
    pipe.vae.requires_grad_(True)
    pipe.vae.decode(torch.zeros(1, 4, 4, 4)).mean().backward()
