"""``--lora`` and ``frolic lora``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dialects import save
from frolic.adapters.shelf import named
from frolic.errors import RequestError
from frolic.io.media import read_record
from frolic.io.safetensors import read_header
from frolic.plan.find import shipped_or_path
from frolic.strength import Strength, parse

Command = Callable[..., Any]
HEADS = ("blocks.0.attn.qkv", 96, 32), ("blocks.1.attn.proj", 32, 32), ("blocks.1.cross_attn.q_linear", 32, 32)


def adapter(path: Path, seed: int, form: str = "comfy", strength: float = 0.4) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, rows, columns in HEADS:
        down = torch.randn(2, columns, generator=generator) / columns**0.5
        up = strength * torch.randn(rows, 2, generator=generator)
        key = f"diffusion_model.{name}" if form == "comfy" else f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"] = down, up
        tensors[f"{key}.alpha"] = torch.tensor(1.0)
    save(tensors, path)
    return path


@pytest.fixture
def draw(command: Command, tiny_folder: Path) -> Command:
    adapter(Path("glow.safetensors"), 1)
    adapter(Path("dusk.safetensors"), 2)
    return lambda *arguments: command(*arguments, "-m", tiny_folder)


def pixels(path: str) -> bytes:
    from PIL import Image

    return Image.open(path).tobytes()


def test_adapters_change_the_picture_and_are_recorded(draw: Command) -> None:
    assert draw("a cat", "-s", 1, "-o", "plain.png").code == 0
    assert (
        draw(
            "a cat", "-s", 1, "-o", "glow.png", "--lora", "glow.safetensors:0.8", "--lora", "dusk.safetensors:0.3"
        ).code
        == 0
    )
    assert draw("a cat", "-s", 1, "-o", "zero.png", "--lora", "glow.safetensors:0").code == 0
    assert pixels("plain.png") == pixels("zero.png") != pixels("glow.png")
    record = read_record(Path("glow.png"))
    assert record["request"]["loras"] == {"glow": 0.8, "dusk": 0.3}
    assert record["adapters"].keys() == {"glow", "dusk"}


def test_from_a_picture_the_adapters_are_asked_for_and_checked(draw: Command) -> None:
    draw("a cat", "-s", 1, "-N", 2, "-o", "a.png", "--lora", "glow.safetensors:0.8,steps=0-0.5")
    ran = draw("--from", "a-1.png", "-o", "again.png")
    assert ran.code == 2 and "was drawn with glow; give its file with --lora" in ran.err
    Path("glow.safetensors").rename("renamed.safetensors")
    assert draw("--from", "a-1.png", "-o", "again.png", "--lora", "renamed.safetensors").code == 0
    assert pixels("again.png") == pixels("a-1.png")
    assert draw("--from", "a-1.png", "-o", "other.png", "--lora", "renamed.safetensors:0.1").code == 0
    assert pixels("other.png") != pixels("a-1.png")
    assert draw("--from", "a-1.png", "-o", "new.png", "--lora", "dusk.safetensors").code == 0
    assert read_record(Path("new.png"))["request"]["loras"] == {"dusk": 1.0}


@pytest.mark.parametrize(
    ("text", "source", "strength"),
    [
        ("glow", "glow", None),
        ("glow:0.6", "glow", Strength(0.6)),
        ("dir/glow.safetensors:-1e-1", "dir/glow.safetensors", Strength(-0.1)),
        ("C:\\x\\glow", "C:\\x\\glow", None),
        ("org/name:1", "org/name", Strength(1.0)),
        ("glow,steps=0.2-0.7", "glow", Strength(start=0.2, end=0.7)),
        ("glow:.5,branch=cond,blocks=3", "glow", Strength(0.5, branch="cond", blocks=(3, 3))),
        ("glow:2,blocks=0-4", "glow", Strength(2.0, blocks=(0, 4))),
    ],
)
def test_sources_and_strengths(text: str, source: str, strength: Strength | None) -> None:
    assert parse(text) == (source, strength)


@pytest.mark.parametrize(
    "text", ["", ":0.5", "a,steps=0.5", "a,steps=1-0", "a,branch=x", "a,blocks=2-1", "a,x=1", "a:1000"]
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        parse(text)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--lora", "none.safetensors"], 3, "There is no adapter none.safetensors"),
        (["--lora", "glow.safetensors:0.5", "--lora", "glow.safetensors:0.5"], 2, "given twice"),
        (["--lora", "glow.safetensors,steps=2"], 2, "is not steps=0-0.5"),
    ],
)
def test_a_wrong_adapter_is_one_sentence(draw: Command, arguments: list[str], code: int, said: str) -> None:
    ran = draw("a cat", "-o", "a.png", *arguments)
    assert ran.code == code and said in ran.err and "Traceback" not in ran.err
    assert not Path("a.png").exists()


def test_info_of_one_and_of_two_that_fight(command: Command, tiny_folder: Path) -> None:
    adapter(Path("glow.safetensors"), 1)
    adapter(Path("against.safetensors"), 1, "kohya", strength=-0.4)
    ran = command("lora", "info", "glow.safetensors")
    assert ran.code == 0 and "glow: ComfyUI, rank 2, 3 layers" in ran.out
    ran = command("lora", "info", "glow.safetensors", "against.safetensors", "-m", tiny_folder, "--layers")
    assert ran.code == 0 and "kohya" in ran.out and "glow and against will fight" in ran.out
    assert "changes weights by" in ran.out and "cosine -1.000" in ran.out
    facts = json.loads(command("lora", "info", "glow.safetensors", "-m", tiny_folder, "--json").out)
    assert [layer["rank"] for layer in facts["adapters"][0]["layers"]] == [2, 2, 2]


@pytest.mark.parametrize("form", ["diffusers", "comfy", "kohya", "original"])
def test_convert(draw: Command, command: Command, tiny_folder: Path, form: str) -> None:
    ran = command(
        "lora", "convert", "glow.safetensors", "out.safetensors", "--to", form, "--dtype", "float32", "-m", tiny_folder
    )
    assert ran.code == 0 and f"out.safetensors: {form}, 3 layers, rank 2, exact" in ran.out
    for name in ("glow", "out"):
        assert draw("a cat", "-s", 1, "-o", f"{name}.png", "--lora", f"{name}.safetensors").code == 0
    a, b = pixels("glow.png"), pixels("out.png")
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) <= 1
    again = command("lora", "convert", "glow.safetensors", "out.safetensors", "-m", tiny_folder)
    assert again.code == 3 and "exists" in again.err


def test_blend_to_a_file(draw: Command, command: Command, tiny_folder: Path) -> None:
    parts = ("glow.safetensors:0.6", "dusk.safetensors:0.4")
    ran = command("lora", "blend", *parts, "-o", "both.safetensors", "--dtype", "float32", "-m", tiny_folder)
    assert (ran.code == 0 and "rank 2 to 4, exact" in ran.out) or "rank 4, exact" in ran.out
    draw("a cat", "-s", 1, "-o", "file.png", "--lora", "both.safetensors")
    draw("a cat", "-s", 1, "-o", "run.png", *(word for part in parts for word in ("--lora", part)))
    assert max(abs(x - y) for x, y in zip(pixels("file.png"), pixels("run.png"), strict=True)) <= 1
    ran = command("lora", "blend", *parts, "-o", "cut.safetensors", "--rank", 2, "--json", "-m", tiny_folder)
    facts = json.loads(ran.out)
    assert facts["ranks"] == [2] and 0.1 < facts["error"] < 0.9
    assert any("lora_A" in key for key in load_file("cut.safetensors"))
    for method in ("ties", "dare"):
        out = f"{method}.safetensors"
        assert command("lora", "blend", *parts, "-o", out, "--method", method, "--rank", 4, "-m", tiny_folder).code == 0
    ran = command("lora", "blend", *parts, "-o", "x.safetensors", "--method", "ties", "-m", tiny_folder)
    assert ran.code == 2 and "--rank" in ran.err
    ran = command("lora", "blend", "glow.safetensors:1,steps=0-0.5", "-o", "x.safetensors", "-m", tiny_folder)
    assert ran.code == 2 and "one weight" in ran.err


def test_a_single_adapter_is_blended_at_its_weight(draw: Command, command: Command, tiny_folder: Path) -> None:
    ran = command(
        "lora", "blend", "glow.safetensors:0.5", "-o", "half.safetensors", "--dtype", "float32", "-m", tiny_folder
    )
    assert ran.code == 0, ran.err
    draw("a cat", "-s", 1, "-o", "a.png", "--lora", "half.safetensors")
    draw("a cat", "-s", 1, "-o", "b.png", "--lora", "glow.safetensors:0.5")
    draw("a cat", "-s", 1, "-o", "c.png", "--lora", "glow.safetensors")
    a, b, c = (pixels(f"{name}.png") for name in "abc")
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) <= 1 and a != c


def test_what_files_say_of_themselves_goes_along(command: Command, tiny_folder: Path) -> None:
    said = {"ss_base_model_version": "tiny", "modelspec.trigger_phrase": "glowing", "frolic.weight": "0.6"}
    save(load_file(adapter(Path("glow_high.safetensors"), 1)), Path("glow_high.safetensors"), said)
    said = {"ss_base_model_version": "tiny", "modelspec.trigger_phrase": "dusky, dim", "frolic.weight": "0.9"}
    save(load_file(adapter(Path("dusk.safetensors"), 2)), Path("dusk.safetensors"), said)
    model = ("-m", tiny_folder)
    assert command("lora", "convert", "glow_high.safetensors", "a.safetensors", *model).code == 0
    assert (
        command("lora", "blend", "glow_high.safetensors", "dusk.safetensors", "-o", "b.safetensors", *model).code == 0
    )
    assert command("lora", "blend", "dusk.safetensors:0.5", "-o", "c.safetensors", *model).code == 0
    one, both, half = (read_header(Path(f"{name}.safetensors")).metadata for name in "abc")
    assert (one["modelspec.trigger_phrase"], one["frolic.weight"]) == ("glowing", "0.6")
    assert one["frolic.expert"] == "high", "its name said so, and the new one does not"
    assert both["modelspec.trigger_phrase"] == "glowing, dusky, dim" and both["ss_base_model_version"] == "tiny"
    assert not {"frolic.weight", "frolic.expert"} & (both.keys() | half.keys())


def test_what_is_passed_over_is_told(command: Command, tiny_folder: Path) -> None:
    tensors = load_file(adapter(Path("glow.safetensors"), 1))
    save(
        {**tensors, "diffusion_model.blocks.9.attn.proj.lora_down.weight": torch.ones(2, 32)}, Path("more.safetensors")
    )
    options = ("--allow-partial", "-m", tiny_folder)
    for arguments in (
        ("convert", "more.safetensors", "a.safetensors"),
        ("blend", "more.safetensors", "glow.safetensors", "-o", "b.safetensors"),
        ("explore", "more.safetensors", "--prompt", "a cat", "--steps-grid", "2x1", "--steps", 1, "-o", "g.png"),
    ):
        assert "blocks.9" in command("lora", *arguments, "-m", tiny_folder).err, "without it, it is refused"
        ran = command("lora", *arguments, *options)
        assert ran.code == 0 and "passed over: diffusion_model.blocks.9.attn.proj.lora_down.weight" in ran.err
    ran = command("lora", "merge", tiny_folder, "more.safetensors", "-o", "merged", "--allow-partial")
    assert ran.code == 0 and "1 tensors of more" in ran.err


def test_a_strength_that_asks_for_what_the_model_has_not_is_said(draw: Command) -> None:
    ran = draw("a cat", "-s", 1, "-o", "a.png", "--lora", "glow.safetensors:0.8,blocks=50-60")
    assert ran.code == 0 and "glow does nothing from block 50 on: the last one is 1." in ran.err
    ran = draw("a cat", "-s", 1, "-o", "b.png", "--lora", "glow.safetensors:0.8,target=low")
    assert ran.code == 0 and "glow acts throughout: this model has no low-noise expert." in ran.err
    assert draw("a cat", "-s", 1, "-o", "c.png", "--lora", "glow.safetensors:0.8").err == ""
    assert pixels("b.png") == pixels("c.png") != pixels("a.png")


def test_explore_draws_a_grid(draw: Command, command: Command, tiny_folder: Path) -> None:
    both, small = ("glow.safetensors", "dusk.safetensors"), ("--steps", 2, "-s", 5, "-m", tiny_folder)
    ran = command("lora", "explore", *both, "--prompt", "a cat", "--steps-grid", "3x2", "-o", "g.png", *small)
    assert ran.code == 0 and "g.png  seed 5, 3x2 pictures" in ran.out
    from PIL import Image

    sheet = Image.open("g.png")
    assert sheet.size == (60 + 3 * 36, 36 + 2 * 36)
    draw(
        "a cat",
        "-s",
        5,
        "--steps",
        2,
        "-o",
        "one.png",
        "--lora",
        "glow.safetensors:0.5",
        "--lora",
        "dusk.safetensors:1",
    )
    cell = sheet.crop((60 + 36, 36 + 36, 60 + 36 + 32, 36 + 36 + 32))
    assert max(abs(x - y) for x, y in zip(cell.tobytes(), pixels("one.png"), strict=True)) <= 2
    for wrong, said in (("3", "not two numbers"), ("100x100", "at most 400")):
        ran = command("lora", "explore", *both, "--prompt", "a cat", "--steps-grid", wrong, "-o", "h.png", *small)
        assert ran.code == 2 and said in ran.err
    assert command("lora", "explore", *both, "-o", "h.png", *small).code == 2
    for idle in (("--seeds", 3), ("--budget", 9), ("--combine", "nonsense")):
        ran = command("lora", "explore", *both, "--prompt", "a cat", *idle, "-o", "h.png", *small)
        assert ran.code == 2 and f"{idle[0]}: of a search" in ran.err
    ran = command("lora", "explore", *both, "--prompt", "a cat", "-o", "h.safetensors", *small)
    assert ran.code == 2 and "A grid is a picture" in ran.err and not Path("h.safetensors").exists()


def test_a_published_model_s_names_need_no_download(command: Command) -> None:
    tensors = {
        "diffusion_model.blocks.0.attn.qkv.lora_down.weight": torch.zeros(4, 2240),
        "diffusion_model.blocks.0.attn.qkv.lora_up.weight": torch.zeros(6720, 4),
    }
    save(tensors, Path("big.safetensors"))
    ran = command("lora", "convert", "big.safetensors", "out.safetensors", "-m", "sana-1.6b-1024")
    assert ran.code == 0, ran.err
    ran = command("lora", "convert", "big.safetensors", "other.safetensors", "-m", "starter")
    assert (ran.code == 3 and "needs" in ran.err) or "is for a layer of 6720x2240" in ran.err


def test_both_experts_of_an_adapter_go_along(command: Command) -> None:
    """Of two experts' adapters in one file, neither is left behind: in diffusers' format one file again, in others two
    that say which they are."""
    whole = load_file(named()["lively"])
    low = {key for key in whole if key.startswith("transformer_2.")}
    assert 0 < len(low) < len(whole)
    video = ("-m", "starter-video", "--dtype", "float32")
    done = command("lora", "convert", "lively", "same.safetensors", *video)
    assert done.code == 0, done.err
    again = load_file("same.safetensors")
    assert again.keys() == whole.keys() and "frolic.expert" not in read_header(Path("same.safetensors")).metadata
    for layer in {key.split(".lora_")[0] for key in whole}:
        one, other = (
            each[f"{layer}.lora_B.weight"].float() @ each[f"{layer}.lora_A.weight"].float() for each in (whole, again)
        )
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    # Both files name their model, so nobody has to; files of two models are for the starter, unless -m says another.
    blended = command("lora", "blend", "lively:0.4", "vivid-clips:0.6", "-o", "both.safetensors", "--json")
    assert blended.code == 0, blended.err
    mixed = command("lora", "blend", "lively", "vivid", "-o", "x.safetensors")
    assert mixed.code != 0 and "lively" in mixed.err and not Path("x.safetensors").exists()
    assert load_file("both.safetensors").keys() == whole.keys()
    done = command("lora", "convert", "lively", "comfy.safetensors", "--to", "comfy", *video, "--json")
    assert done.code == 0, done.err
    paths = [json.loads(line)["path"] for line in done.out.splitlines()]
    assert paths == ["comfy_high.safetensors", "comfy_low.safetensors"]
    halves = [load_file(path) for path in paths]
    assert halves[0].keys() == halves[1].keys()
    key = next(key for key in halves[0] if key.endswith("lora_up.weight"))
    assert not torch.equal(halves[0][key], halves[1][key])
    assert [read_header(Path(path)).metadata["frolic.expert"] for path in paths] == ["high", "low"]
    said = json.loads(command("lora", "info", "lively", "-m", "starter-video", "--json").out)
    assert [one["name"] for one in said["adapters"]] == ["lively (high)", "lively (low)"] and not said["pairs"]
    # Each half is held against the weights of its own expert.
    folder, key = shipped_or_path("starter-video"), "blocks.0.attn.qkv"
    for one, part in zip(said["adapters"], ("transformer", "transformer_2"), strict=True):
        (layer,) = (each for each in one["layers"] if each["layer"] == key)
        state = load_file(folder / part / "diffusion_pytorch_model.safetensors")
        names = (f"blocks.0.attn1.to_{letter}.weight" for letter in "qkv")
        weight = torch.cat([state[name].float() for name in names])
        assert layer["relative"] == pytest.approx(layer["norm"] / float(weight.norm()), rel=1e-4)


def test_a_sheet_of_a_model_of_clips_holds_pictures(command: Command) -> None:
    given = ("--prompt", "a dog bouncing", "-m", "starter-video", "--steps", 1, "--steps-grid", "2x1", "-s", 1)
    done = command("lora", "explore", "lively", *given, "-o", "sheet.png")
    assert done.code == 0, done.err
    assert Path("sheet.png").is_file()


def test_a_blend_of_two_that_are_called_alike_names_both(command: Command, tiny_folder: Path) -> None:
    for number, folder in enumerate(("x", "y"), 1):
        Path(folder).mkdir()
        adapter(Path(folder) / "style.safetensors", number)
    given = ("x/style.safetensors:0.5", "y/style.safetensors:0.3", "x/style.safetensors:0.25")
    assert command("lora", "blend", *given, "-o", "both.safetensors", "-m", tiny_folder).code == 0
    told = json.loads(read_header(Path("both.safetensors")).metadata["frolic.blend"])["adapters"]
    assert {name: one["weight"] for name, one in told.items()} == {"style": 0.75, "style (2)": 0.3}
    assert len({one["sha256"] for one in told.values()}) == 2
