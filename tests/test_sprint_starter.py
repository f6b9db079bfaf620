"""The starter in one to four steps, which ships with frolic: it is the quick one that is drawn with by default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import frolic
from frolic.eval import few, suites
from frolic.eval.judge import Judge
from frolic.io.media import read_record
from frolic.plan import find_model
from frolic.request import Request, suits
from stock import diffusers, draw

BYTES = 8_000_000


@pytest.fixture(scope="module")
def pipe() -> frolic.Pipeline:
    return frolic.load("starter-sprint", device="cpu", dtype="float32")


def test_it_is_small_and_shares_all_but_the_transformer() -> None:
    folder, whole = find_model("starter-sprint"), find_model("starter")
    assert sum(path.stat().st_size for path in (folder / "transformer").iterdir()) < BYTES
    for part in ("text_encoder", "tokenizer", "vae"):
        names = sorted(path.name for path in (folder / part).iterdir())
        assert names == sorted(path.name for path in (whole / part).iterdir())
        for name in names:
            assert (folder / part / name).read_bytes() == (whole / part / name).read_bytes()


@pytest.mark.parametrize("steps", [1, 2])
def test_the_same_picture_in_diffusers(pipe: frolic.Pipeline, steps: int) -> None:
    theirs: Any = diffusers.SanaSprintPipeline.from_pretrained(find_model("starter-sprint"), dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    prompts = ["a red panda", "a fox on a blue background"]
    ours = pipe(prompts, seed=5, steps=steps, output="tensor").pixels
    found = draw(
        theirs,
        prompts,
        [5, 6],
        num_inference_steps=steps,
        intermediate_timesteps=1.3 if steps == 2 else None,
        guidance_scale=pipe.defaults.guidance_scale,
        height=256,
        width=256,
        use_resolution_binning=False,
        complex_human_instruction=None,
        clean_caption=False,
        max_sequence_length=pipe.defaults.max_tokens,
    )
    assert ours is not None and found.std() > 0.05
    error = ((ours + 1) / 2 - found).square().mean(dim=(1, 2, 3))
    assert bool((10 * torch.log10(1 / error.clamp_min(1e-12)) > 40).all())


def test_everyday_things_are_recognised_after_one_step(pipe: frolic.Pipeline) -> None:
    judge = Judge.load()
    whole = frolic.load("starter", device="cpu", dtype="float32")
    rows = list(few.compare(pipe, whole, judge, suites.suite("single-everyday", judge.concepts, 8), 0, 8))
    assert [row.steps for row in rows] == [20, 1, 2, 4] and rows[0].share is None
    assert all(row.accuracy >= 0.75 and row.n == 8 for row in rows)
    table = few.markdown(rows)
    assert "| starter-sprint | 1 |" in table and "| starter | 20 |" in table


@pytest.mark.parametrize(
    ("asked", "suited"),
    [
        ({}, True),
        ({"steps": 4, "seed": 3, "num_images": 2, "width": 320, "height": 192}, True),
        ({"times": (1.5, 0.8)}, True),
        ({"sampler": "scm"}, True),
        ({"steps": 5}, False),
        ({"sampler": "unipc"}, False),
        ({"negative_prompt": "blue"}, False),
        ({"guidance_scale": 3.0}, False),
        ({"pag_scale": 2.0}, False),
        ({"strength": 0.5}, False),
        ({"step_cache": 0.1}, False),
        ({"frames": 9}, False),
        ({"loras": {"vivid": 0.5}}, False),
    ],
    ids=str,
)
def test_what_the_quick_one_is_asked_for(asked: dict[str, Any], suited: bool) -> None:
    assert suits(Request.of("a cat", **asked)) is suited


def test_it_draws_where_no_model_is_named(command: Any) -> None:
    for options, name, steps in (
        ((), "starter-sprint", 2),
        (("--steps", "1"), "starter-sprint", 1),
        (("--steps", "5"), "starter", 5),
        (("--lora", "vivid:0.6", "--steps", "2"), "starter", 2),
    ):
        ran = command("a red panda", "-o", "x.png", "-s", "1", "--force", "--quiet", *options)
        assert ran.code == 0, ran.err
        record = read_record(Path("x.png"))
        assert (record["model"]["name"], record["request"]["steps"]) == (name, steps)
    ran = command("a red panda", "--dry-run", "--json", "--negative-prompt", "blue")
    assert ran.code == 0 and "starter-sprint" not in ran.out


def test_what_the_quick_one_drew_is_drawn_again_by_the_one_that_can(command: Any) -> None:
    """As in the README: drawn by the quick one, then ``--from`` it with more steps."""
    assert command("a red panda", "-o", "x.png", "-s", "7", "--quiet").code == 0
    for options, name, steps, scale in (
        (("-N", "2"), "starter-sprint", 2, 4.0),
        (("--steps", "1"), "starter-sprint", 1, 4.0),
        (("--steps", "5"), "starter", 5, 4.0),
        (("-n", "blue", "--cfg", "3"), "starter", 20, 3.0),
        (("--lora", "vivid:0.6", "--steps", "3"), "starter", 3, 4.0),
        (("-m", "starter", "--steps", "3"), "starter", 3, 4.0),
    ):
        ran = command("--from", "x.png", "-o", "y.png", "--force", "--quiet", *options)
        assert ran.code == 0, ran.err
        record = read_record(Path("y-1.png" if "-N" in options else "y.png"))
        drawn = record["request"]
        assert (record["model"]["name"], drawn["steps"], drawn["guidance_scale"]) == (name, steps, scale)
        assert drawn["seed"] == 7 and (drawn["sampler"] == "scm") is (name == "starter-sprint")
    # And the other way round: nothing of how the whole one draws is meant for the quick one.
    ran = command("--from", "y.png", "-m", "starter-sprint", "-o", "z.png", "--quiet")
    assert ran.code == 0, ran.err
    drawn = read_record(Path("z.png"))["request"]
    assert (drawn["steps"], drawn["sampler"], drawn["seed"]) == (2, "scm", 7)
    ran = command("--from", "x.png", "--steps", "5", "--dry-run", "--json")
    assert ran.code == 0 and "starter-sprint" not in ran.out, ran.err


def test_the_command_compares_and_says_what_is_not_one(command: Any) -> None:
    out = Path("few.json")
    files = ["--out", str(out), "--sheet", "s.webp"]
    ran = command("eval", "starter-sprint", "--suite", "single-everyday", "--limit", "2", "--json", *files)
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["steps"] for line in lines[:-1]] == [20, 1, 2, 4]
    assert lines[-1] == json.loads(out.read_text()) and lines[-1]["steps"] == 2 and lines[-1]["n"] == 2
    with Image.open("s.webp") as sheet:
        assert sheet.width == 8 * 134 + 6 and sheet.height > 3 * 128
    for wrong, what in (
        (["--sheet", "s.gif"], "end it in .png"),
        (["-m", "starter"], "does not draw in 1 to 4"),
        (["--against", "starter-sprint"], "few steps"),
    ):
        ran = command("eval", "starter-sprint", "--limit", "1", *wrong)
        assert ran.code == 2 and what in ran.err
