"""Adapters by name, and models with adapters merged into them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_lora_command import adapter, pixels

import frolic
from frolic.adapters import shelf
from frolic.errors import CheckpointError, ModelNotFoundError, RequestError

Command = Callable[..., Any]


@pytest.fixture
def glow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FROLIC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(shelf, "shipped_folder", lambda: tmp_path / "shipped")
    path = adapter(tmp_path / "glow.safetensors", 1)
    about = {
        "ss_base_model_version": "tiny",
        "ss_network_dim": "2",
        "modelspec.trigger_phrase": "glowing",
        "modelspec.description": "Everything glows.\x1b[31m",
        shelf.WEIGHT: "0.7",
        shelf.TRAINED_ON: "8 pictures of lamps",
    }
    save_file(load_file(path), path, metadata=about)
    return path


def test_nothing_is_there_at_first(command: Command, glow: Path) -> None:
    assert json.loads(command("lora", "list", "--json").out) == {"adapters": [], "broken": {}}
    assert "frolic lora add" in command("lora", "list").out


def test_an_added_adapter_has_a_name_everywhere(command: Command, glow: Path, tiny_folder: Path) -> None:
    assert command("lora", "add", glow, "--name", "lamp").code == 0
    listed = json.loads(command("lora", "list", "--json").out)["adapters"]
    (one,) = listed
    assert (one["name"], one["base"], one["rank"], one["trigger"]) == ("lamp", "tiny", "2", "glowing")
    assert (one["weight"], one["trained_on"], one["shipped"]) == (0.7, "8 pictures of lamps", False)
    said = command("lora", "list").out
    assert '--lora lamp:0.7, with "glowing" in the prompt' in said and "\x1b" not in said
    assert command("a cat", "-s", 1, "-o", "named.png", "--lora", "lamp:0.6", "-m", tiny_folder).code == 0
    assert command("a cat", "-s", 1, "-o", "file.png", "--lora", f"{glow}:0.6", "-m", tiny_folder).code == 0
    assert pixels("named.png") == pixels("file.png")
    # A record finds what has a name by itself.
    assert command("--from", "named.png", "-o", "again.png", "-m", tiny_folder).code == 0
    assert pixels("again.png") == pixels("named.png")
    assert command("lora", "info", "lamp").code == 0
    assert command("lora", "convert", "lamp", "out.safetensors", "-m", tiny_folder).code == 0
    assert command("lora", "remove", "lamp").code == 0
    refused = command("a cat", "--lora", "lamp", "-m", tiny_folder)
    assert refused.code == 3 and "no adapter 'lamp'" in refused.err


def test_a_record_does_not_take_another_adapter_of_the_name(command: Command, glow: Path, tiny_folder: Path) -> None:
    command("lora", "add", glow, "--name", "lamp")
    command("a cat", "-s", 1, "-o", "named.png", "--lora", "lamp", "-m", tiny_folder)
    other = adapter(glow.parent / "other.safetensors", 5)
    assert command("lora", "add", other, "--name", "lamp").code == 3  # it is taken
    assert command("lora", "add", other, "--name", "lamp", "--force").code == 0
    refused = command("--from", "named.png", "-m", tiny_folder)
    assert refused.code == 2 and "was drawn with lamp" in refused.err


def test_a_file_and_a_name_that_are_spelled_alike_are_two(command: Command, glow: Path, tiny_folder: Path) -> None:
    """``mine/lamp.safetensors`` beside ``lamp``, in either order, in one drawing and in drawings of one pipeline."""
    assert command("lora", "add", glow, "--name", "lamp").code == 0
    (glow.parent / "mine").mkdir()
    mine = str(adapter(glow.parent / "mine" / "lamp.safetensors", 2))

    def draw(pipe: Any, **fields: Any) -> Any:
        return pipe("a cat", seed=1, steps=2, **fields)

    apart = {str(glow): 0.5, mine: 0.5}
    expected = draw(frolic.load(tiny_folder), loras=apart).images[0].tobytes()
    for blend in ({mine: 0.5, "lamp": 0.5}, {"lamp": 0.5, mine: 0.5}):
        pipe = frolic.load(tiny_folder)
        result = draw(pipe, loras=blend)
        assert result.images[0].tobytes() == expected
        assert sorted(result.record(0)["adapters"]) == ["lamp", "lamp-2"]
    # A request that a result completed means the same adapters when it is asked for again.
    alone = draw(pipe, loras={mine: 0.7})
    assert pipe(alone.request).images[0].tobytes() == alone.images[0].tobytes()
    assert draw(pipe, loras={"lamp": 0.7}).images[0].tobytes() != alone.images[0].tobytes()
    # And nothing in the folder one is in comes before what a record names.
    assert command("a cat", "-s", 1, "-o", "named.png", "--lora", "lamp:0.6", "-m", tiny_folder).code == 0
    Path("lamp").mkdir()
    adapter(Path("lamp") / "pytorch_lora_weights.safetensors", 3)
    assert command("--from", "named.png", "-o", "again.png", "-m", tiny_folder).code == 0
    assert pixels("again.png") == pixels("named.png")


def test_names_near_and_names_that_are_none(glow: Path) -> None:
    shelf.add(glow)
    with pytest.raises(ModelNotFoundError, match="did you mean 'glow'"):
        shelf.resolve("glew")
    for source in ("glow:much", f"{glow}:much"):
        with pytest.raises(ModelNotFoundError, match=r"^'much' in .* is not a weight; give a number .*:0\.6\.$"):
            shelf.resolve(source)
    for name in ("../glow", "a/b", "", ".hidden", "x" * 65, "né"):
        with pytest.raises(RequestError, match="no name for an adapter"):
            shelf.add(glow, name)
    assert sorted(path.name for path in shelf.own_folder().iterdir()) == ["glow.safetensors"]


def test_what_ships_stays_and_broken_ones_are_said(command: Command, glow: Path, tmp_path: Path) -> None:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "style.safetensors").write_bytes(glow.read_bytes())
    (tmp_path / "shipped" / "torn.safetensors").write_bytes(glow.read_bytes()[:200])
    listed = json.loads(command("lora", "list", "--json").out)
    assert [(one["name"], one["shipped"]) for one in listed["adapters"]] == [("style", True)]
    assert list(listed["broken"]) == ["torn"]
    with pytest.raises(ModelNotFoundError, match="ships with frolic"):
        shelf.remove("style")


def test_a_broken_file_gets_no_name(glow: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(glow.read_bytes()[:200])
    with pytest.raises(CheckpointError):
        shelf.add(torn)
    assert not shelf.own_folder().exists() or not list(shelf.own_folder().iterdir())


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, glow: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    index = {"weight_map": {"a.lora_A.weight": "../glow.safetensors"}}
    (folder / "adapter_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="points out of itself"):
        shelf.add(folder, "sharded")
    assert not shelf.own_folder().exists()


def test_merging_draws_what_blending_draws(command: Command, glow: Path, tiny_folder: Path, tmp_path: Path) -> None:
    dusk = adapter(tmp_path / "dusk.safetensors", 2, "kohya")
    out = tmp_path / "merged"
    done = command("lora", "merge", tiny_folder, f"{glow}:0.6", f"{dusk}:-0.4", "-o", out, "--json")
    facts = json.loads(done.out)
    assert done.code == 0 and facts["adapters"] == ["glow", "dusk"] and facts["layers"] == 3
    given = {"seed": 3, "steps": 4, "output": "tensor"}
    merged = frolic.load(out)("a cat", **given).pixels
    blended = frolic.load(tiny_folder)("a cat", loras={str(glow): 0.6, str(dusk): -0.4}, **given).pixels
    plain = frolic.load(tiny_folder)("a cat", **given).pixels
    assert merged is not None and blended is not None and plain is not None
    assert (merged - blended).abs().max() < 1e-4 < (merged - plain).abs().max()
    assert command("lora", "merge", tiny_folder, glow, "-o", out).code == 3  # it is there
    assert command("lora", "merge", tiny_folder, glow, "-o", out, "--force").code == 0


def test_a_partial_adapter_is_refused_unless_allowed(glow: Path, tiny_folder: Path) -> None:
    tensors = load_file(glow)
    tensors["diffusion_model.blocks.9.attn.qkv.lora_down.weight"] = torch.randn(2, 32)
    tensors["diffusion_model.blocks.9.attn.qkv.lora_up.weight"] = torch.randn(96, 2)
    more = glow.parent / "more.safetensors"
    save_file(tensors, more)
    with pytest.raises(CheckpointError, match=r"blocks\.9"):
        frolic.load(tiny_folder)("a cat", steps=2, loras={str(more): 1.0})
    result = frolic.load(tiny_folder, allow_partial=True)("a cat", seed=1, steps=2, loras={str(more): 1.0})
    assert any("2 tensors of more" in note and "blocks.9" in note for note in result.notes)
    whole = frolic.load(tiny_folder)("a cat", seed=1, steps=2, loras={str(glow): 1.0})
    assert result.images[0].tobytes() == whole.images[0].tobytes() and not whole.notes
