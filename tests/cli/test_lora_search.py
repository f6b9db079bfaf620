"""``frolic lora explore --reward``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dialects import save
from frolic.cli.lora_search import parse_floors
from frolic.errors import ConfigError
from frolic.io.safetensors import read_header
from frolic.rewards.looks import Bright
from tiny_wan import write_tiny_wan

Command = Callable[..., Any]
PROMPTS = ("--prompt", "a red panda", "--prompt", "an orange cat")
SMALL = ("-s", 7, "--steps", 2)


def adapter(path: Path, seed: int, heads: tuple[tuple[str, int, int], ...], strength: float = 0.6) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, rows, columns in heads:
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, columns, generator=generator) / columns**0.5
        tensors[f"{name}.lora_B.weight"] = strength * torch.randn(rows, 2, generator=generator)
    save(tensors, path)
    return path


SANA = tuple(
    (f"diffusion_model.blocks.{n}.attn.{p}", rows, 32) for n in (0, 1) for p, rows in (("qkv", 96), ("proj", 32))
)
WAN = tuple((f"diffusion_model.blocks.{n}.self_attn.{p}", 48, 48) for n in (0, 1) for p in "qkvo")


@pytest.fixture
def explore(command: Command, tiny_folder: Path) -> Command:
    adapter(Path("glow.safetensors"), 1, SANA)
    adapter(Path("dusk.safetensors"), 2, SANA)
    both = ("glow.safetensors", "dusk.safetensors")
    return lambda *arguments: command("lora", "explore", *both, *PROMPTS, *SMALL, "-m", tiny_folder, *arguments)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_chosen_blend_is_the_best_of_the_table_that_reaches_the_floor(explore: Command) -> None:
    ran = explore("-r", "bright", "--floor", "contrast:plain-10%", "--budget", 60, "--best", "a.json", "--json")
    assert ran.code == 0, ran.out + ran.err
    *blends, last = lines(ran.out)
    found = json.loads(Path("a.json").read_text())
    assert last["event"] == "best" and last["lora"] == found["lora"] and len(blends) == len(found["table"])
    assert found["pictures"] == 4 * len(blends) <= 60 and len(blends) > 9, "the grid, and further blends"
    table = found["table"]
    assert table[0]["weights"] == [0, 0]
    least = table[0]["scores"]["contrast (floor)"] * 0.9
    assert found["floors"] == [{"floor": "contrast:plain-10%", "least": pytest.approx(least)}]
    for row in table:
        assert row["meets"] == (row["scores"]["contrast (floor)"] >= found["floors"][0]["least"])
        assert row["score"] == pytest.approx(row["scores"]["bright"])
    top = max((row for row in table if row["meets"]), key=lambda row: row["score"])
    weights = [each["weight"] for each in found["adapters"]]
    assert weights == top["weights"] and found["score"] == top["score"] > found["plain"]
    assert [blend["best"] for blend in blends].index(True) == table.index(top)
    assert found["lora"] == [f"{name}.safetensors:{w:g}" for name, w in zip(("glow", "dusk"), weights, strict=True)]
    # The same seed gives the same search.
    again = explore("-r", "bright", "--floor", "contrast:plain-10%", "--budget", 60, "--best", "b.json", "--json")
    assert lines(again.out)[:-1] == blends


def test_a_floor_keeps_out_what_would_be_best(explore: Command) -> None:
    assert explore("-r", "bright", "--budget", 36, "--best", "free.json").code == 0
    free = json.loads(Path("free.json").read_text())
    best = next(row for row in free["table"] if row["score"] == free["score"])
    value = best["scores"]["bright"] - 0.3 * (free["score"] - free["plain"])
    # Minus brightness may not fall below minus this.
    Path("dark.py").write_text(
        "def dark(frames, prompts):\n    return [-(clip / 255 @ (0.2126, 0.7152, 0.0722)).mean() for clip in frames]"
    )
    table = explore("-r", "bright", "--floor", f"python:dark.py:dark:{-value}", "--budget", 36, "--best", "held.json")
    assert table.code == 0, table.err
    held = json.loads(Path("held.json").read_text())
    assert free["plain"] <= held["score"] <= value < free["score"] and any(not row["meets"] for row in held["table"])
    assert "below" in table.out and sum(line.startswith("best") for line in table.out.splitlines()) == 1


def test_scores_are_those_of_the_files_that_the_blend_draws(
    explore: Command, command: Command, tiny_folder: Path
) -> None:
    ran = explore("-r", "vivid", "-r", "bright:-0.5", "--low", 0.2, "--seeds", 1, "--budget", 20,
                  "-o", "both.safetensors")  # fmt: skip
    assert ran.code == 0 and "sum" in ran.out.splitlines()[0], ran.err
    found = json.loads(Path("both.json").read_text())
    assert found["scales"][0]["deviation"] > 0 and found["pictures"] <= 20
    chosen = [each["weight"] for each in found["adapters"]]
    row = next(row for row in found["table"] if row["weights"] == chosen)
    given = [word for each in found["lora"] for word in ("--lora", each)]
    for number, prompt in enumerate(PROMPTS[1::2]):
        done = command(prompt, *SMALL, "-m", tiny_folder, *given, "-o", f"{number}.png")
        assert done.code == 0, done.err
        done = command(prompt, *SMALL, "-m", tiny_folder, "--lora", "both.safetensors", "-o", f"file{number}.png")
        assert done.code == 0, done.err
    for name, tolerance in (("", 2e-4), ("file", 5e-3)):  # the file's weights are rounded to bfloat16
        scored = command("reward", "score", f"{name}0.png", f"{name}1.png", "-r", "vivid", "-r", "bright", "--json")
        rows = [line["scores"] for line in lines(scored.out)]
        for reward in ("vivid", "bright"):
            mean = sum(each[reward] for each in rows) / 2
            assert mean == pytest.approx(row["scores"][reward], abs=tolerance)
    about = json.loads(read_header(Path("both.safetensors")).metadata["frolic.blend"])
    assert [each["weight"] for each in about["adapters"].values()] == [weight for weight in chosen if weight]


def test_rewards_see_what_a_file_would_hold(explore: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    off: list[float] = []

    def score(self: Bright, frames: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        off.append(float((frames * 255 - (frames * 255).round()).abs().max()))
        return frames.mean(dim=(1, 2, 3, 4))

    monkeypatch.setattr(Bright, "score", score)
    assert explore("-r", "bright", "--seeds", 1, "--budget", 8).code == 0
    assert len(off) == 8 and max(off) < 1e-4


def test_where_no_blend_reaches_the_floor_nothing_is_written(explore: Command) -> None:
    ran = explore("-r", "bright", "--floor", "contrast:0.9", "--budget", 20, "-o", "out.safetensors")
    assert ran.code == 2 and "No blend reaches the floor" in ran.err and "lacks least" in ran.err
    assert "below" in ran.out and not Path("out.json").exists() and not Path("out.safetensors").exists()


def test_the_plain_model_may_be_best(explore: Command) -> None:
    Path("plain.py").write_text(
        "import numpy as np\nfirst = []\n"
        "def near(frames, prompts):\n"
        "    first.append(frames[0]) if len(first) < 4 else None\n"
        "    return [-min(float(np.abs(x.astype(float) - y).mean()) for y in first) for x in frames]\n"
    )
    ran = explore("-r", "python:plain.py:near", "--budget", 40, "-o", "out.safetensors")
    assert ran.code == 0 and "is not written: the best blend has nothing in it" in ran.err
    assert json.loads(Path("out.json").read_text())["lora"] == ["glow.safetensors:0", "dusk.safetensors:0"]
    assert not Path("out.safetensors").exists()


def test_two_experts_have_weights_of_their_own(command: Command, tmp_path: Path) -> None:
    model = write_tiny_wan(tmp_path / "wan", "t2v-two")
    adapter(Path("glow.safetensors"), 1, WAN)
    adapter(Path("dusk_low_noise.safetensors"), 2, WAN)
    ran = command(
        "lora", "explore", "glow.safetensors", "dusk_low_noise.safetensors", "--prompt", "a rocket", "--seeds", 1,
        "-s", 3, "--steps", 2, "--size", "16x16", "--frames", 5, "-r", "bright", "-r", "smooth", "--budget", 14,
        "-o", "best.safetensors", "-m", model,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = json.loads(Path("best.json").read_text())
    axes = [(each["source"], each["target"]) for each in found["adapters"]]
    assert axes == [("glow.safetensors", "high"), ("glow.safetensors", "low"), ("dusk_low_noise.safetensors", "auto")]
    assert "glow high" in ran.out and "glow low" in ran.out
    by = {tuple(row["weights"]): row["scores"]["bright"] for row in found["table"]}
    alone = [by[weights] for weights in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len(set(alone)) == 4, "each weight does something by itself"
    weights = [each["weight"] for each in found["adapters"]]
    for expert, there in (("high", weights[0]), ("low", weights[1] or weights[2])):
        path = Path(f"best_{expert}.safetensors")
        assert path.exists() == bool(there)
        if there:
            assert read_header(path).metadata["frolic.expert"] == expert and load_file(path)
    assert not Path("best.safetensors").exists()
    ran = command("lora", "explore", "glow.safetensors", "--prompt", "a rocket", "--frames", 1, "--size", "16x16",
                  "--steps", 1, "-r", "smooth", "--budget", 20, "-m", model)  # fmt: skip
    assert ran.code == 2 and "smooth needs more than 1 frames" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-r", "brigt"), "did you mean 'bright'"),
        (("-r", "bright", "--budget", 15), "--budget 15 is too little.*takes 16 pictures"),
        (("-r", "bright", "--floor", "contrast"), "is not SPEC:VALUE"),
        (("-r", "bright", "--combine", "rank"), "--combine is sum or min"),
        (("-r", "bright", "-o", "out.png"), "end it in .safetensors"),
        (("-r", "bright", "--steps-grid", "3x3"), "--steps-grid is of a grid"),
        (("-r", "bright", "--prompt-file", "x.txt"), "not both"),
        (("--floor", "contrast:0.1"), "with --reward"),
        ((), "A grid is of one prompt"),
        (("-r", "bright", "--low", 1), "is not below"),
    ],
)
def test_what_cannot_be_searched_is_refused(explore: Command, arguments: tuple[object, ...], said: str) -> None:
    ran = explore(*arguments)
    assert ran.code == 2 and re.search(said, ran.err), ran.err


def test_a_search_needs_prompts_and_different_adapters(command: Command, tiny_folder: Path) -> None:
    adapter(Path("glow.safetensors"), 1, SANA)
    ran = command("lora", "explore", "glow.safetensors", "glow.safetensors", "-r", "bright", "-m", tiny_folder)
    assert ran.code == 2 and "no prompt" in ran.err and "given twice" in ran.err
    Path("prompts.txt").write_text("a cat\na dog\n")
    ran = command("lora", "explore", "glow.safetensors", "-r", "bright", "--prompt-file", "prompts.txt", *SMALL,
                  "--seeds", 1, "--budget", 8, "-m", tiny_folder)  # fmt: skip
    assert ran.code == 0 and json.loads(Path("blend.json").read_text())["prompts"] == ["a cat", "a dog"]
    ran = command("lora", "explore", "glow.safetensors", "-r", "bright", "--prompt-file", "prompts.txt")
    assert ran.code == 3 and "blend.json already exists" in ran.err


def test_floors() -> None:
    (a, b, c, d) = parse_floors(["contrast:0.3", "vivid:plain", "http://host:80/x:plain-0.02", "bright:plain-5%"])
    assert (a.value, a.wanted.spec.name) == (0.3, "contrast") and a.least(9) == 0.3
    assert b.least(0.7) == 0.7 and c.wanted.spec.name == "http://host:80/x" and c.least(0.5) == pytest.approx(0.48)
    assert d.least(2.0) == pytest.approx(1.9) and d.least(-2.0) == pytest.approx(-2.1), "5% worse, whatever the sign"
    for wrong in ("contrast", "contrast:much", "contrast:5%", "contrast:plain-", "contrast:0.5:0.3", "none:1"):
        with pytest.raises(ConfigError):
            parse_floors([wrong])
