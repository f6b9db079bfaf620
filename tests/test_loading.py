from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import frolic
from frolic.convert import convert
from frolic.errors import CheckpointError, ModelNotFoundError, NetworkError, RequestError, UnsafeFileError
from frolic.io import safetensors
from frolic.pipeline import Pipeline
from frolic.plan import make_plan
from frolic.spec import Published
from given import picture, publish, transformer_config, write_controlnet
from tiny import write_tiny_folder

PART = Path("transformer/diffusion_pytorch_model.safetensors")
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
WIDE = ("bfloat16", "float32")
COMMIT = "0123456789" * 4
NET = ("--controlnet", "nobody/net")


def drawn(pipe: Pipeline, **fields: Any) -> bytes:
    return pipe("a red panda", seed=3, steps=2, **fields).images[0].tobytes()


def dtypes(pipe: Pipeline) -> dict[str, set[torch.dtype]]:
    """What the weights of every part really are."""
    held = {name: getattr(pipe, name) for name in ("transformer", "vae", "text_encoder", "controlnet")}
    return {name: {p.dtype for p in part.parameters()} for name, part in held.items() if isinstance(part, nn.Module)}


def other_weights(path: Path, seed: int) -> None:
    """Move every weight in a file a little."""
    tensors = safetensors.load(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        moved = {name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in tensors.items()}
    safetensors.save(moved, path, force=True)


@pytest.fixture
def tuned(own_folder: Path) -> Path:
    """The same model with another transformer."""
    other_weights(own_folder / PART, 1)
    return own_folder


@pytest.mark.parametrize("naming", ["original", "comfy"])
def test_one_file_with_a_base_draws_as_its_folder(tuned: Path, tiny_folder: Path, tmp_path: Path, naming: str) -> None:
    file = tmp_path / "my finetune.safetensors"
    convert(tuned, file, naming)
    pipe = frolic.load(file, base=tiny_folder, device="cpu")
    assert drawn(pipe) == drawn(frolic.load(tuned, device="cpu")) != drawn(frolic.load(tiny_folder, device="cpu"))
    assert pipe.card.name == "my finetune" and file in pipe.card.files
    assert tiny_folder / PART not in pipe.card.files
    assert pipe.defaults == frolic.load(tiny_folder, device="cpu").defaults


def test_a_file_in_diffusers_naming_takes_its_config_from_the_base(tuned: Path, tiny_folder: Path) -> None:
    pipe = frolic.load(tuned / PART, base=tiny_folder, device="cpu")
    assert drawn(pipe) == drawn(frolic.load(tuned, device="cpu"))


def test_a_file_and_a_base_that_do_not_go_together(tiny_folder: Path, tmp_path: Path) -> None:
    convert(tiny_folder, tmp_path / "file.safetensors", "original")
    with pytest.raises(ModelNotFoundError, match="give --base MODEL"):
        frolic.load(tmp_path / "file.safetensors", device="cpu")
    with pytest.raises(RequestError, match="is a whole model; leave out --base"):
        frolic.load(tiny_folder, base=tiny_folder, device="cpu")
    with pytest.raises(ModelNotFoundError, match="give the model's folder"):
        frolic.load(tmp_path / "file.safetensors", base=tmp_path / "file.safetensors", device="cpu")
    with pytest.raises(ModelNotFoundError, match="no model"):
        frolic.load(tmp_path / "file.safetensors", base=tmp_path / "gone", device="cpu")


def test_a_file_with_more_or_less_than_a_transformer(tiny_folder: Path, tmp_path: Path) -> None:
    convert(tiny_folder, tmp_path / "whole.safetensors", "original")
    tensors = safetensors.load(tmp_path / "whole.safetensors")
    unread = {"y_embedder.y_embedding": torch.ones(12, 16), "pos_embed": torch.zeros(1, 64, 32)}
    safetensors.save(tensors | unread, tmp_path / "more.safetensors")
    assert drawn(frolic.load(tmp_path / "more.safetensors", base=tiny_folder, device="cpu"))
    cases = {"foreign": (tensors | {"lora.up": torch.ones(3)}, "lora.up"), "lacking": (dict(tensors), "attn.qkv")}
    gone = next(name for name in tensors if "attn.qkv" in name)
    del cases["lacking"][0][gone]
    for name, (held, said) in cases.items():
        safetensors.save(held, tmp_path / f"{name}.safetensors")
        with pytest.raises(CheckpointError, match=said):
            frolic.load(tmp_path / f"{name}.safetensors", base=tiny_folder, device="cpu")


def test_a_file_of_another_part_is_refused_with_its_name(tiny_folder: Path, tmp_path: Path) -> None:
    convert(tiny_folder / "vae", tmp_path / "vae.safetensors", "original")
    with pytest.raises(CheckpointError, match="holds a vae, not a transformer; give the file of a transformer"):
        frolic.load(tmp_path / "vae.safetensors", base=tiny_folder, device="cpu")
    convert(tiny_folder, tmp_path / "transformer.safetensors", "original")
    with pytest.raises(CheckpointError, match="holds a transformer, not a vae"):
        frolic.load(tiny_folder, vae=tmp_path / "transformer.safetensors", device="cpu")
    safetensors.save({"model.layers.0.weight": torch.ones(2)}, tmp_path / "llm.safetensors")
    with pytest.raises(CheckpointError, match="no model that frolic knows"):
        frolic.load(tmp_path / "llm.safetensors", base=tiny_folder, device="cpu")


@pytest.mark.parametrize("given", ["vae", ".", "vae/diffusion_pytorch_model.safetensors", "original"])
def test_another_autoencoder_beside_a_model(own_folder: Path, tiny_folder: Path, tmp_path: Path, given: str) -> None:
    other_weights(own_folder / "vae" / PART.name, 2)
    place = own_folder / given
    if given == "original":
        place = tmp_path / "vae.safetensors"
        convert(own_folder / "vae", place, "original")
    pipe = frolic.load(tiny_folder, vae=place, device="cpu")
    assert drawn(pipe) == drawn(frolic.load(own_folder, device="cpu")) != drawn(frolic.load(tiny_folder, device="cpu"))
    assert pipe.card.hash != frolic.load(tiny_folder, device="cpu").card.hash


def test_a_controlnet_beside_a_model_or_within(own_folder: Path, tiny_folder: Path) -> None:
    write_controlnet(own_folder / "controlnet")
    index = json.loads((own_folder / "model_index.json").read_text())
    index |= {"_class_name": "SanaControlNetPipeline", "controlnet": ["diffusers", "SanaControlNetModel"]}
    (own_folder / "model_index.json").write_text(json.dumps(index))
    places = (own_folder / "controlnet", own_folder)
    wanted = drawn(frolic.load(own_folder, device="cpu"), control=picture())
    assert wanted != drawn(frolic.load(own_folder, device="cpu"))
    for place in places:
        pipe = frolic.load(tiny_folder, controlnet=place, device="cpu")
        assert pipe.has_controlnet and drawn(pipe, control=picture()) == wanted


def test_a_wrong_part_beside_a_model_is_refused(own_folder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds SanaTransformer2DModel, but a vae is needed"):
        frolic.load(tiny_folder, vae=tiny_folder / "transformer", device="cpu")
    with pytest.raises(CheckpointError, match=r"holds no config\.json, but a controlnet is needed"):
        frolic.load(tiny_folder, controlnet=tiny_folder, device="cpu")
    with pytest.raises(ModelNotFoundError, match="no model"):
        frolic.load(tiny_folder, controlnet=tmp_path / "gone", device="cpu")
    path = own_folder / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "latent_channels": 8}))
    with pytest.raises(CheckpointError, match=r"latent channels \(1\): 8 and 4"):
        frolic.load(tiny_folder, vae=own_folder / "vae", device="cpu")
    net = write_controlnet(tmp_path / "net")
    config = json.loads((net / "config.json").read_text())
    (net / "config.json").write_text(json.dumps({**config, "num_layers": 2}))
    with pytest.raises(CheckpointError, match=r"controlnet layers.*fewer than 2"):
        frolic.load(tiny_folder, controlnet=net, device="cpu")
    (net / PART.name).rename(net / "diffusion_pytorch_model.bin")
    (net / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsafeFileError, match="pickle"):
        frolic.load(tiny_folder, controlnet=net, device="cpu")


def test_every_part_has_its_own_dtype(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frolic.plan.dtypes.has_bfloat16", lambda device: True)
    half = write_tiny_folder(tmp_path / "half", dtype=F16)
    net = write_controlnet(tmp_path / "net", F16)
    pipe = frolic.load(half, controlnet=net, dtype="float16", device="cpu")
    expected = {"transformer": {F16}, "vae": {BF16}, "text_encoder": {BF16}, "controlnet": {F16}}
    assert dtypes(pipe) == expected
    assert drawn(pipe, control=picture(), image=picture(), strength=0.5)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("base", "net", "asked"),
    [
        *((BF16, F16, "bfloat16"), (F16, BF16, "float16"), (F16, F32, "float16"), (F32, F16, "bfloat16")),
        *((BF16, F16, "float32"), (F16, BF16, "auto")),
    ],
)
def test_a_controlnet_computes_in_the_transformers_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: torch.dtype, net: torch.dtype, asked: str, known: bool
) -> None:
    if known:
        publish(monkeypatch, entry("half" if asked == "float16" else "brain"))
    folder = write_tiny_folder(tmp_path / "base", dtype=base)
    pipe = frolic.load(folder, controlnet=write_controlnet(tmp_path / "net", net), dtype=asked, device="cpu")
    found = dtypes(pipe)
    assert found["controlnet"] == found["transformer"] == {F32 if asked == "auto" else getattr(torch, asked)}
    assert drawn(pipe, control=picture())


def test_parts_that_were_stored_in_different_types_keep_their_own(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frolic.plan.dtypes.has_bfloat16", lambda device: True)
    half, brain = (write_tiny_folder(tmp_path / str(dtype), dtype=dtype) for dtype in (F16, BF16))
    shutil.copy(brain / "text_encoder/model.safetensors", half / "text_encoder/model.safetensors")
    found = dtypes(frolic.load(half, dtype="float16", device="cpu"))
    assert found == {"transformer": {F16}, "vae": {BF16}, "text_encoder": {BF16}}


@pytest.fixture
def varied(own_folder: Path, tmp_path: Path) -> Path:
    """A folder with plain weights, and beside them others in float16 and bfloat16."""
    for variant, dtype in (("fp16", F16), ("bf16", BF16)):
        source = write_tiny_folder(tmp_path / variant, seed=1, dtype=dtype)
        for name in ("transformer", "vae"):
            shutil.copy(source / name / PART.name, own_folder / name / f"diffusion_pytorch_model.{variant}.safetensors")
    shutil.copy(
        tmp_path / "bf16/text_encoder/model.safetensors", own_folder / "text_encoder" / "model.bf16.safetensors"
    )
    return own_folder


def test_a_variant_is_read_where_it_is_asked_for(varied: Path, tmp_path: Path) -> None:
    plain, brain = frolic.load(varied, device="cpu"), frolic.load(varied, variant="bf16", device="cpu")
    assert drawn(plain) != drawn(brain) == drawn(frolic.load(tmp_path / "bf16", device="cpu"))
    assert {path.name.split(".")[1] for path in make_plan(varied, device="cpu").weights} == {"safetensors"}
    assert {path.name.split(".")[1] for path in make_plan(varied, variant="bf16", device="cpu").weights} == {"bf16"}
    assert make_plan(varied, variant="bf16", dtype="bf16", device="cpu").dtype == BF16


def test_a_variant_that_is_not_there_is_refused(varied: Path, tiny_folder: Path) -> None:
    with pytest.raises(RequestError, match="no variant 'fp16' of the transformer; there is the plain one"):
        make_plan(tiny_folder, variant="fp16", device="cpu")
    with pytest.raises(RequestError, match=r"no variant 'int4'.* there is the plain one, fp16, bf16"):
        make_plan(varied, variant="int4", device="cpu")


RULES = {
    "half": {"transformer": ("float16", "float32"), "vae": WIDE, "text_encoder": WIDE},
    "brain": {"transformer": WIDE, "vae": WIDE, "text_encoder": WIDE},
}


def entry(rule: str, variant: str = "", name: str = "sana-tiny", **defaults: Any) -> Published:
    return Published(name, f"acme/{name}_diffusers", "", transformer_config(), 32, RULES[rule], variant, defaults)


@pytest.mark.parametrize(
    ("rule", "asked", "parts"),
    [
        ("half", "float16", (F16, BF16, BF16)),
        ("half", "fp16", (F16, BF16, BF16)),
        ("half", "float32", (F32, F32, F32)),
        ("half", "auto", (F32, F32, F32)),
        ("brain", "bfloat16", (BF16, BF16, BF16)),
        ("brain", "float32", (F32, F32, F32)),
        ("brain", "auto", (F32, F32, F32)),
    ],
)
def test_a_published_model_is_loaded_by_its_rule(
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    asked: str,
    parts: tuple[torch.dtype, ...],
) -> None:
    publish(monkeypatch, entry(rule, name="tiny"))
    monkeypatch.setattr("frolic.plan.dtypes.has_bfloat16", lambda device: True)
    pipe = frolic.load(tiny_folder, dtype=asked, device="cpu")
    found = dtypes(pipe)
    assert tuple(found[name] for name in ("transformer", "vae", "text_encoder")) == tuple({part} for part in parts)
    assert pipe("a red panda", seed=1, steps=2).record()["dtype"] == str(parts[0]).removeprefix("torch.")


@pytest.mark.parametrize(
    ("rule", "wrong", "right"), [("half", "bfloat16", "float16"), ("brain", "float16", "bfloat16")]
)
def test_the_wrong_dtype_is_refused_with_the_right_one(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, rule: str, wrong: str, right: str
) -> None:
    publish(monkeypatch, entry(rule, name="tiny"))
    with pytest.raises(RequestError, match=f"of tiny are not safe in {wrong}; use --dtype float32 or {right}"):
        frolic.load(tiny_folder, dtype=wrong, device="cpu")


def test_a_files_own_name_decides_and_not_that_of_its_base(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, entry("half", name="tiny"), entry("brain", name="mine"))
    for name, found in (("mine", "mine"), ("other", None)):
        shutil.copy(tiny_folder / PART, tmp_path / f"{name}.safetensors")
        plan = make_plan(tmp_path / f"{name}.safetensors", base=tiny_folder, device="cpu")
        assert (plan.published.name if plan.published else None) == found
        with pytest.raises(RequestError, match="not safe in float16"):
            make_plan(tmp_path / f"{name}.safetensors", base=tiny_folder, dtype="float16", device="cpu")


def test_the_variant_that_is_stored_in_the_dtype_is_read(
    varied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, entry("half", name="tiny"))
    monkeypatch.setattr("frolic.plan.dtypes.has_bfloat16", lambda device: True)
    assert not any(".fp16." in path.name for path in make_plan(varied, device="cpu").weights)
    plan = make_plan(varied, dtype="float16", device="cpu")
    names = {path.parent.name: path.name for path in plan.weights}
    assert names["transformer"] == "diffusion_pytorch_model.fp16.safetensors"
    assert names["vae"] == "diffusion_pytorch_model.bf16.safetensors", "an autoencoder is not safe in float16"
    assert sorted(path.name for path in make_plan(varied, variant="bf16", device="cpu").weights)[0].startswith(
        "diffusion_pytorch_model.bf16"
    )


def test_two_published_models_of_one_shape_are_told_apart_by_name(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, entry("half", name="sana-half", shift=5.0), entry("brain", name="sana-brain", steps=7))
    assert make_plan(tiny_folder, device="cpu").published is None, "a folder's own name says nothing"
    for name in ("sana-half", "sana-brain"):
        for folder in (tmp_path / f"{name}_diffusers", tmp_path / f"models--acme--{name}_diffusers/snapshots/{COMMIT}"):
            shutil.copytree(tiny_folder, folder)
            (folder / "frolic.json").unlink()
            found = make_plan(folder, device="cpu")
            assert found.published is not None and found.published.name == name
    assert make_plan(tmp_path / "sana-half_diffusers", device="cpu").defaults.shift == 5.0
    assert make_plan(tmp_path / "sana-brain_diffusers", device="cpu").defaults.steps == 7
    with pytest.raises(RequestError, match="sana-half are not safe in bf16"):
        make_plan(tmp_path / "sana-half_diffusers", dtype="bf16", device="cpu")


def shard(folder: Path, count: int = 3) -> Path:
    """Split the transformer's file into shards; returns their index."""
    tensors = safetensors.load(folder / PART)
    names = sorted(tensors)
    places = {}
    for number in range(count):
        file = f"diffusion_pytorch_model-{number + 1:05}-of-{count:05}.safetensors"
        mine = names[number::count]
        safetensors.save({name: tensors[name] for name in mine}, folder / "transformer" / file)
        places |= dict.fromkeys(mine, file)
    (folder / PART).unlink()
    index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_a_folder_of_shards_draws_the_same(own_folder: Path, tiny_folder: Path) -> None:
    index = shard(own_folder)
    pipe = frolic.load(own_folder, device="cpu")
    assert drawn(pipe) == drawn(frolic.load(tiny_folder, device="cpu"))
    assert sum("of-00003" in path.name for path in pipe.card.files) == 3 and index.is_file()


def rewritten(index: Path, change: Callable[[dict[str, str]], None]) -> None:
    value = json.loads(index.read_text())
    change(value["weight_map"])
    index.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda index: (index.parent / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink(), "missing file"),
        (lambda index: rewritten(index, lambda m: m.update({"proj_out.bias": "../../secret.safetensors"})), "outside"),
        (lambda index: rewritten(index, lambda m: m.update({"proj_out.bias": "/etc/passwd"})), "outside"),
        (lambda index: rewritten(index, lambda m: m.pop("proj_out.bias") and None), "does not place there"),
        (lambda index: rewritten(index, lambda m: m.update({"more.bias": m["proj_out.bias"]})), "missing tensor"),
        (lambda index: index.write_text("{}"), "weight_map"),
        (lambda index: index.write_text("["), "not valid JSON"),
        (lambda index: index.write_text('{"weight_map": {"a": 3}}'), "weight_map"),
    ],
)
def test_shards_that_are_not_whole_are_refused(own_folder: Path, spoil: Callable[[Path], Any], said: str) -> None:
    spoil(shard(own_folder))
    with pytest.raises(CheckpointError, match=said):
        frolic.load(own_folder, device="cpu")


def test_half_a_shard_is_refused(own_folder: Path) -> None:
    path = shard(own_folder).parent / "diffusion_pytorch_model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"00002-of-00003\.safetensors cannot be used because it is cut short"):
        frolic.load(own_folder, device="cpu")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": "lots"}, "memory is 'lots'; give auto or full or low"),
        ({"memory": "lo"}, "did you mean 'low'"),
        ({"tiling": "yes"}, "tiling is 'yes'"),
        ({"compat": "comfy"}, "compat is 'comfy'; give diffusers or native"),
    ],
)
def test_settings_of_loading_that_do_not_exist(tiny_folder: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make_plan(tiny_folder, device="cpu", **options)


@pytest.fixture
def hub_cache(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the Hub's libraries leave it, with one model, and no network at all."""

    def refuse(*_: object) -> None:
        pytest.fail("a socket was opened")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--acme--sana-tiny_diffusers"
    blobs, snapshot = repo / "blobs", repo / "snapshots" / COMMIT
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in tiny_folder.rglob("*") if path.is_file())):
        blob = Path(shutil.copy(file, blobs / f"{number:040}"))
        link = snapshot / file.relative_to(tiny_folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (snapshot / "frolic.json").unlink()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize("name", ["sana-tiny", "acme/sana-tiny_diffusers", "acme/sana-tiny_diffusers@main"])
def test_a_cached_model_is_drawn_with_by_name_without_a_socket(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    publish(monkeypatch, entry("brain", shift=4.0, steps=2))
    pipe = frolic.load(name, device="cpu")
    result = pipe("a red panda", seed=1, width=32, height=32)
    assert pipe.defaults.shift == 4.0 and result.request.steps == 2
    assert result.record()["model"]["name"] == "acme/sana-tiny_diffusers", "a commit is no name"


def test_a_cached_model_is_a_base_and_a_place_of_parts(
    hub_cache: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, entry("brain", steps=2))
    convert(tiny_folder, tmp_path / "file.safetensors", "original")
    pipe = frolic.load(tmp_path / "file.safetensors", base="sana-tiny", device="cpu")
    assert pipe("a red panda", seed=1, width=32, height=32, steps=2).images
    assert drawn(frolic.load(tiny_folder, vae="acme/sana-tiny_diffusers", device="cpu"))
    with pytest.raises(NetworkError, match="is on this machine, and the Hub cannot be asked for more"):
        frolic.load(tiny_folder, controlnet="acme/sana-tiny_diffusers", device="cpu")


def test_what_is_not_cached_is_one_clear_error_offline(
    hub_cache: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, entry("brain"), entry("half", name="sana-gone"))
    with pytest.raises(NetworkError):
        frolic.load("sana-gone", device="cpu")
    for arguments in (("-m", "sana-gone"), ("-m", "nobody/nothing"), ("-m", "acme/sana-tiny_diffusers@v2"), NET):
        ran = command("a red panda", *arguments)
        assert ran.code == 5 and ran.out == "" and ran.err.count("\n") == 1 and "offline" in ran.err
    ran = command("a red panda", "-m", "sana-tinny")
    assert ran.code == 3 and "did you mean 'sana-tiny'" in ran.err
