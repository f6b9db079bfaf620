from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from fake_hub import prepare, serving
from frolic.cli.convert import parse_size, register
from frolic.convert import TARGETS, convert
from frolic.errors import CheckpointError, FileError, FrolicError, ModelNotFoundError, RequestError, UnsafeFileError
from frolic.io import safetensors as st
from frolic.plan import make_plan
from frolic.plan.find import shipped_or_path
from tiny import write_tiny_folder

EXTRA = {"y_embedder.y_embedding": torch.ones(12, 16), "pos_embed": torch.zeros(1, 64, 32)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def original(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transformer as its authors would give it, with what nothing here reads."""
    folder = tmp_path_factory.mktemp("original")
    convert(base, folder / "plain.safetensors", "original")
    st.save(st.load(folder / "plain.safetensors") | EXTRA, folder / "original.safetensors")
    return folder / "original.safetensors"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return st.load(st.find_weights(path) if path.is_dir() else path)


def assert_same(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("part", ["transformer", "vae"])
@pytest.mark.parametrize("through", ["original", "comfy"])
def test_round_trips_are_bit_equal(base, tmp_path, part, through):
    if (part, through) == ("vae", "comfy"):
        with pytest.raises(RequestError, match="--to original"):
            convert(base / part, tmp_path / "file.safetensors", through)
        return
    done = convert(base / part, tmp_path / "file.safetensors", through)
    assert (done.part, done.source, done.left_out) == (part, "diffusers", ())
    convert(tmp_path / "file.safetensors", tmp_path / "whole", base=base)
    assert_same(tmp_path / "whole" / part, base / part)
    convert(tmp_path / "whole" / part, tmp_path / "again.safetensors", through)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "file.safetensors").read_bytes()


def test_between_the_authors_names_and_comfyuis_nothing_is_lost(base, original, tmp_path):
    done = convert(original, tmp_path / "comfy.safetensors", "comfy", base=base)
    assert done.left_out == ()
    assert "model.diffusion_model.pos_embed" in weights(tmp_path / "comfy.safetensors")
    convert(tmp_path / "comfy.safetensors", tmp_path / "back.safetensors", "original", base=base)
    assert_same(tmp_path / "back.safetensors", original)


def test_positions_go_along_for_programs_that_look_for_them(base, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(base / "transformer", part)
    config = json.loads((part / "config.json").read_text()) | {"interpolation_scale": 1.0}
    (part / "config.json").write_text(json.dumps(config))
    convert(part, tmp_path / "comfy.safetensors", "comfy")
    table = weights(tmp_path / "comfy.safetensors")["model.diffusion_model.pos_embed"]
    assert table.shape == (1, config["sample_size"] ** 2, 32)
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    side = config["sample_size"]
    theirs = embeddings.get_2d_sincos_pos_embed(32, side, base_size=side, interpolation_scale=1.0, output_type="pt")
    assert torch.allclose(table[0].double(), theirs.double(), atol=1e-6)
    other = with_part(base, part, tmp_path)
    done = convert(tmp_path / "comfy.safetensors", tmp_path / "back.safetensors", "original", base=other)
    assert done.tensors == len(weights(tmp_path / "comfy.safetensors"))


def with_part(base: Path, part: Path, folder: Path) -> Path:
    """``base`` with another transformer."""
    shutil.copytree(base, folder / "with")
    shutil.copyfile(part / "config.json", folder / "with" / "transformer" / "config.json")
    return folder / "with"


def test_with_a_base_it_becomes_a_whole_pipeline(base, original, tmp_path):
    done = convert(original, tmp_path / "whole", base=base)
    assert set(done.left_out) == EXTRA.keys()
    assert files(tmp_path / "whole") == files(base)
    assert_same(tmp_path / "whole" / "transformer", base / "transformer")
    assert make_plan(tmp_path / "whole", device="cpu").parts["transformer"].config.layers == 2
    own = json.loads((tmp_path / "whole" / "frolic.json").read_text())
    assert "name" not in own and own["steps"] == 3


def test_shards_and_their_index(base, original, tmp_path):
    convert(base / "transformer", tmp_path / "part", shard_bytes=60_000)
    names = files(tmp_path / "part")
    assert names[0] == "config.json" and "diffusion_pytorch_model-00001-of-00004.safetensors" in names
    index = json.loads((tmp_path / "part" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in weights(base / "transformer").values())
    assert_same(tmp_path / "part", base / "transformer")
    convert(tmp_path / "part", tmp_path / "one.safetensors", "original")
    shards = tmp_path / "part" / "diffusion_pytorch_model.safetensors.index.json"
    convert(shards, tmp_path / "two.safetensors", "original")
    assert_same(tmp_path / "one.safetensors", tmp_path / "two.safetensors")


def test_diffusers_reads_the_folder(base, original, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    convert(original, tmp_path / "whole", base=base, shard_bytes=100_000)
    theirs = diffusers.SanaTransformer2DModel.from_pretrained(tmp_path / "whole" / "transformer").state_dict()
    ours = weights(base / "transformer")
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_variant_is_read_and_the_copies_lose_its_name(base, original, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(base, half)
    plain = half / "vae" / "diffusion_pytorch_model.safetensors"
    plain.rename(half / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    convert(half / "vae", tmp_path / "vae.safetensors", "original")
    convert(original, tmp_path / "whole", base=half)
    assert files(tmp_path / "whole") == files(base)


@pytest.mark.parametrize("name", ["float16", "bf16"])
def test_the_dtype_is_changed_where_it_is_asked_for(base, tmp_path, name):
    convert(base, tmp_path / "file.safetensors", "original", dtype=name)
    kinds = {tensor.dtype for tensor in weights(tmp_path / "file.safetensors").values()}
    assert kinds == {torch.float16 if name == "float16" else torch.bfloat16}


def spoiled(original: Path, folder: Path, change) -> Path:
    tensors = weights(original)
    change(tensors)
    st.save(tensors, folder / "spoiled.safetensors")
    return folder / "spoiled.safetensors"


def test_everything_that_is_wrong_is_said_at_once_and_nothing_written(base, original, tmp_path):
    def change(tensors):
        del tensors["blocks.1.attn.qkv.weight"], tensors["t_block.1.bias"]
        tensors["blocks.0.mlp.extra"] = torch.zeros(1)
        tensors["final_layer.scale_shift_table"] = torch.zeros(3, 32)

    with pytest.raises(CheckpointError) as error:
        convert(spoiled(original, tmp_path, change), tmp_path / "out", base=base)
    said = str(error.value)
    assert all(word in said for word in ("missing (2)", "blocks.1.attn.qkv.weight", "t_block.1.bias"))
    assert "unexpected (1): blocks.0.mlp.extra" in said and "is 3x32, needs 2x32" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spoiled.safetensors"]


@pytest.mark.parametrize(("to", "shard"), [("original", None), ("diffusers", 60_000)])
def test_numbers_that_are_not_finite_are_listed_once_and_nothing_written(base, original, tmp_path, to, shard):
    def change(tensors):
        tensors["blocks.0.attn.qkv.weight"][0, 0] = torch.nan
        tensors["x_embedder.proj.bias"][0] = 1e6

    source = spoiled(original, tmp_path, change)
    with pytest.raises(CheckpointError) as error:
        name = "out.safetensors" if to == "original" else "out"
        convert(source, tmp_path / name, to, base=base, dtype="float16", shard_bytes=shard)
    assert "not finite (1): blocks.0.attn.qkv.weight" in str(error.value)
    assert "too large for float16" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["spoiled.safetensors"]


def test_another_architecture_is_refused(base, tmp_path):
    st.save({"double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 1)}, tmp_path / "flux.safetensors")
    with pytest.raises(CheckpointError, match="no model that frolic knows"):
        convert(tmp_path / "flux.safetensors", tmp_path / "out", base=base)
    with pytest.raises(RequestError, match="one set of names"):
        convert(base / "text_encoder", tmp_path / "out.safetensors", "original")
    # Another dtype is something to do all the same.
    convert(base / "text_encoder", tmp_path / "half", dtype="bfloat16")
    assert {tensor.dtype for tensor in weights(tmp_path / "half").values()} == {torch.bfloat16}


def test_an_index_that_lies_is_refused(base, tmp_path):
    convert(base / "transformer", tmp_path / "part", shard_bytes=120_000)
    (tmp_path / "part" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing file"):
        convert(tmp_path / "part", tmp_path / "out.safetensors", "original")
    index = tmp_path / "part" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        convert(tmp_path / "part", tmp_path / "out.safetensors", "original")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "onnx"}, "no layout 'onnx'"),
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"to": "comfy", "shard_bytes": 9}, "one file"),
        ({"shard_bytes": 0}, "holds nothing"),
    ],
)
def test_a_wrong_wish_is_refused(base, tmp_path, options, said):
    with pytest.raises(RequestError, match=said):
        convert(base, tmp_path / "out", **options)


def test_what_is_there_is_replaced_only_by_its_own_kind_and_when_told_to(base, original, tmp_path):
    out = tmp_path / "out"
    convert(base / "transformer", out)
    with pytest.raises(FileError, match="already exists"):
        convert(base / "transformer", out)
    convert(base / "transformer", out, dtype="float16", force=True)
    assert weights(out)["proj_out.bias"].dtype == torch.float16
    with pytest.raises(FileError, match=r"no model_index\.json"):
        convert(original, out, base=base, force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("x")
    with pytest.raises(FileError, match="choose another name"):
        convert(base / "transformer", tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "diary.txt").exists()
    with pytest.raises(FileError, match="already exists"):
        convert(base, original, "original")
    with pytest.raises(ModelNotFoundError):
        convert(tmp_path / "nothing", tmp_path / "new")


@pytest.mark.parametrize("foreign", ["model.pth", "src/a.py", "config.json/x", "diffusion_pytorch_model.json"])
def test_a_part_with_something_foreign_in_its_folder_is_not_replaced(base, tmp_path, foreign):
    out = tmp_path / "out"
    convert(base / "transformer", out)
    if foreign.startswith("config"):
        (out / "config.json").write_text('{"model_type": "llama"}')
        foreign = "config.json"
    else:
        (out / foreign).parent.mkdir(exist_ok=True)
        (out / foreign).write_text("x")
    before = files(out)
    with pytest.raises(FileError) as error:
        convert(base / "transformer", out, force=True)
    assert foreign.partition("/")[0] in str(error.value) and files(out) == before


@pytest.mark.parametrize("foreign", ["diary.txt", "scripts/a.py", "vae/a.py", "tokenizer/a.py", "transformer/more/x"])
def test_a_pipeline_with_something_foreign_in_it_is_not_replaced(base, original, tmp_path, foreign):
    out = tmp_path / "out"
    convert(original, out, base=base)
    convert(original, out, base=base, force=True)
    (out / foreign).parent.mkdir(exist_ok=True)
    (out / foreign).write_text("x")
    before = files(out)
    with pytest.raises(FileError, match="holds more than a model"):
        convert(original, out, base=base, force=True)
    assert files(out) == before


def test_shards_and_variants_are_a_models_own(base, tmp_path):
    out = tmp_path / "out"
    convert(base / "transformer", out, shard_bytes=60_000)
    (out / "diffusion_pytorch_model.fp16.safetensors").touch()
    (out / "diffusion_pytorch_model.safetensors.index.fp16.json").touch()
    convert(base / "transformer", out, force=True)
    assert files(out) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_what_is_read_is_never_replaced(base, original, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(base, whole)
    part = whole / "transformer"
    weight = part / "diffusion_pytorch_model.safetensors"
    before = files(whole)
    for source, target, to, other in (
        (weight, part, "diffusers", None),
        (part, part, "diffusers", None),
        (part, whole, "diffusers", base),
        (original, whole, "diffusers", whole),
        (part, weight, "original", None),
        (weight, weight, "original", None),
    ):
        with pytest.raises(FileError, match="read for it"):
            convert(source, target, to, base=other, force=True)
    assert files(whole) == before
    assert_same(part, base / "transformer")


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("a.pth", "original"),
        ("a", "comfy"),
        ("a.json", "original"),
        ("a.safetensors", "diffusers"),
        ("..", "diffusers"),
    ],
)
def test_a_name_that_does_not_fit_the_layout_is_refused_first(tmp_path, name, to):
    with pytest.raises(RequestError, match=r"name|must end in"):
        convert(tmp_path / "nothing is there", tmp_path / name, to)


def test_another_programs_config_beside_a_file_is_ignored_and_that_is_said(base, original, tmp_path):
    shutil.copyfile(original, tmp_path / "m.safetensors")
    for text in ('{"model_type": "llama"}', "no JSON", '{"architectures": 3}', '{"_class_name": ["x"]}'):
        (tmp_path / "config.json").write_text(text)
        done = convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "original", base=base, force=True)
        assert ["was ignored" in said for said in done.assumed] == [True]
    shutil.copyfile(base / "vae" / "config.json", tmp_path / "config.json")
    done = convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "original", base=base, force=True)
    assert "is for a vae and was ignored" in done.assumed[0]


def test_a_config_beside_a_file_has_to_agree_with_it(base, original, tmp_path):
    shutil.copyfile(original, tmp_path / "m.safetensors")
    config = json.loads((base / "transformer" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "original").assumed == ()
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_layers": 5}))
    with pytest.raises(CheckpointError, match=r"contradicts the config\.json beside it in layers \(2 and 5\)"):
        convert(tmp_path / "m.safetensors", tmp_path / "two.safetensors", "original", base=base)


@pytest.mark.parametrize(
    "config",
    [{"architectures": 3}, {"_class_name": ["x"]}, {"_class_name": "SanaTransformer2DModel", "num_layers": "x"},
     {"_class_name": "AutoencoderDC", "encoder_qkv_multiscales": 3}],
)  # fmt: skip
def test_a_config_of_the_wrong_kinds_is_refused(base, tmp_path, config):
    shutil.copytree(base / "transformer", tmp_path / "part")
    (tmp_path / "part" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        convert(tmp_path / "part", tmp_path / "out")


def test_a_named_models_transformer_alone_is_fetched_where_that_is_enough(base, tmp_path, monkeypatch):
    app = typer.Typer()
    register(app)
    with serving() as web:
        prepare(web, tmp_path / "hub", monkeypatch)
        web.publish_folder("acme/tiny", base)
        out = tmp_path / "out.safetensors"
        result = CliRunner().invoke(app, ["acme/tiny", str(out), "--to", "original", "--json"])
        events = {json.loads(line)["event"] for line in result.stdout.splitlines()}
        assert events == {"download", "downloading", "converted"} and out.is_file()
        fetched = " ".join(map(str, web.downloads()))
        assert "transformer/" in fetched and "vae/" not in fetched and "text_encoder/" not in fetched


def test_a_base_that_does_not_fit_is_refused(base, original, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(base, other)
    config = json.loads((other / "transformer" / "config.json").read_text())
    (other / "transformer" / "config.json").write_text(json.dumps(config | {"caption_channels": 8}))
    st.save(weights(original), tmp_path / "original.safetensors")
    with pytest.raises(FrolicError):
        convert(tmp_path / "original.safetensors", tmp_path / "out", base=other)
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_opened_in_another_process(base, original, tmp_path):
    torch.save({"state_dict": weights(original), "epoch": 3}, tmp_path / "model.pth")
    done = convert(tmp_path / "model.pth", tmp_path / "back.safetensors", "original", base=base)
    assert_same(tmp_path / "back.safetensors", original)
    assert done.tensors == len(weights(original))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.safetensors", "model.pth"]


def test_of_two_sets_of_weights_it_is_said_which_was_taken(base, original, tmp_path):
    mine = weights(original)
    other = {name: tensor + 1 for name, tensor in mine.items()}
    torch.save({"state_dict_ema": other, "state_dict": mine}, tmp_path / "model.pth")
    done = convert(tmp_path / "model.pth", tmp_path / "back.safetensors", "original", base=base)
    assert done.assumed == (f"{tmp_path / 'model.pth'} holds state_dict and state_dict_ema; state_dict is taken.",)
    assert_same(tmp_path / "back.safetensors", original)


class Wicked:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


def test_a_pickle_with_code_runs_none_of_it(base, original, tmp_path):
    sentinel = tmp_path / "sentinel"
    torch.save({"state_dict": weights(original), "extra": Wicked(sentinel)}, tmp_path / "model.pth")
    with pytest.raises(UnsafeFileError, match=r"would run code .*posix\.system"):
        convert(tmp_path / "model.pth", tmp_path / "out", base=base)
    assert not sentinel.exists() and [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_the_command_says_what_it_did(base, original, tmp_path):
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, [str(original), str(tmp_path / "out"), "--base", str(base), "--json"])
    facts = json.loads(result.stdout)
    assert (facts["part"], facts["from"], facts["to"], facts["tensors"]) == ("transformer", "original", "diffusers", 54)
    result = CliRunner().invoke(
        app, [str(original), str(tmp_path / "two"), "--base", str(base), "--shard-size", "90KB"]
    )
    assert "Left out, because nothing reads it: pos_embed, y_embedder.y_embedding." in result.stderr
    assert "54 tensors" in result.stdout


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 1572864), ("70000", 70000)])
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "5 apples", "0", "0.1", "9" * 400 + "GB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(RequestError):
        parse_size(text)


def test_the_result_is_plain_data(base, tmp_path):
    done = convert(base / "transformer", tmp_path / "x.safetensors", "original")
    assert asdict(done)["to"] in TARGETS and done.bytes == sum(t.numel() * 4 for t in weights(done.path).values())


def test_both_experts_of_a_folder_stay_what_they_are(tmp_path):
    """They are of one class, and the parts are of one name in two families."""
    video = shipped_or_path("starter-video")
    found = convert(video, tmp_path / "whole", dtype="bfloat16")
    assert found.part == "transformer and transformer_2"
    for part in ("transformer", "transformer_2"):
        was, now = weights(video / part), weights(tmp_path / "whole" / part)
        assert all(torch.equal(now[name], was[name].to(torch.bfloat16)) for name in was)
    assert convert(video, tmp_path / "first.safetensors", "comfy").part == "transformer"
    second = convert(video / "transformer_2", tmp_path / "second.safetensors", "original")
    assert second.part == "transformer_2"
    one, other = weights(tmp_path / "first.safetensors"), weights(tmp_path / "second.safetensors")
    assert not torch.equal(one["model.diffusion_model.head.head.weight"], other["head.head.weight"])
    assert convert(video / "vae", tmp_path / "vae.safetensors", "original").part == "vae"
    assert "conv1.weight" in weights(tmp_path / "vae.safetensors")
