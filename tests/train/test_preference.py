"""A reward learned from choices."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from choices import pictures, redness, write_pairs
from frolic.config import load_recipe
from frolic.data.pairs import mark_of, pixels, read_pairs
from frolic.errors import CheckpointError, ConfigError, FileError
from frolic.io.safetensors import load
from frolic.io.video import save_video
from frolic.models.dual import PreferenceHead, bradley_terry
from frolic.rewards import RewardSpec, make_reward
from frolic.rewards.files import read_clip
from frolic.rewards.preference import spread
from frolic.train.jobs import built_in
from frolic.train.trainer import Trainer

JOBS = built_in()
Command = Callable[..., Any]


def train(folder: Path, pairs: Path, *changes: str, until: int | None = None) -> Any:
    given = [f"vars.pairs={pairs}", f"output.folder={folder}", "trainer.device=cpu", *changes]
    recipe = load_recipe("starter/preference", given, "ci", jobs=JOBS)
    return Trainer(recipe, JOBS.build(recipe)).run(until=until)


def test_the_loss_is_bradleys_and_terrys_with_ties_in_the_middle() -> None:
    left, right = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 0.5])
    p = [1 / (1 + math.exp(-(a - b))) for a, b in zip(left.tolist(), right.tolist(), strict=True)]
    plain = -(math.log(p[0]) + math.log(1 - p[1]) + 0.5 * math.log(p[2]) + 0.5 * math.log(1 - p[2])) / 3
    assert float(bradley_terry(left, right, torch.tensor([1.0, 0.0, 0.5]))) == pytest.approx(plain, abs=1e-6)


def test_numbers_of_every_kind_weigh_alike_and_what_never_varied_has_no_say() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(50, 12, generator=generator) * torch.tensor([9.0] * 2 + [0.1] * 8 + [0.0, 1e-6]) + 3
    head = PreferenceHead(12, hidden=4)
    head.fit(clips, [2, 8, 2])
    x = (clips - head.mean) * head.rescale
    weights = x.square().mean(dim=0)
    assert torch.allclose(weights[:2].sum(), weights[2:10].sum(), rtol=1e-4)
    assert weights.sum() == pytest.approx(1.0, rel=1e-4) and bool((head.rescale[10:] == 0).all())
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.normal_(head.bent.weight)
    moved = clips.clone()
    moved[:, 10:] += 100
    assert torch.equal(head(clips), head(moved)) and not torch.equal(head(clips), head(clips.flip(1)))


def test_a_hidden_rule_is_learned_from_few_choices(command: Command, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "made", 160, ties=6)
    done = command("reward", "train", pairs, "-o", tmp_path / "own", "--json", "trainer.device=cpu")
    assert done.code == 0, done.err
    facts = json.loads(done.out.splitlines()[-1])
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert facts["pairs"] == 160 and 20 <= facts["held_out"] <= 45
    assert facts["agreement"] >= 0.85 and facts["agreement"] == config["agreement"]
    assert facts["pairs_hash"] == config["pairs_hash"] == mark_of(read_pairs(pairs, pixels)[0])
    # Of pictures that were in no file at all.
    reward = make_reward(RewardSpec("preference", {"weights": str(tmp_path / "own")}))
    new = pictures(300, seed=9)
    with torch.no_grad():
        scores = reward.score(new.movedim(-1, 1)[:, None].float() / 255, ["a disc 1"] * len(new))
    right = (scores[::2] > scores[1::2]) == (redness(new)[::2] > redness(new)[1::2])
    assert right.float().mean() >= 0.85
    said = command("reward", "train", pairs, "-o", tmp_path / "own", "trainer.device=cpu")
    assert said.code == 0 and f"{facts['agreement']:.0%}" in said.out, "the finished run is met again"


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "made", 12)
    few = ["trainer.steps=6", "job.hidden=3", "trainer.ema=0.9"]
    whole = train(tmp_path / "whole", pairs, *few).export
    assert train(tmp_path / "parts", pairs, *few, until=3).step == 3
    parts = train(tmp_path / "parts", pairs, *few).export
    one, other = (load(folder / "model.safetensors") for folder in (whole, parts))
    assert one["linear.weight"].abs().sum() > 0
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    lines = pairs.read_text().splitlines()
    pairs.write_text("\n".join([*lines[1:], lines[0].replace('"left"}', '"equal"}').replace('"right"}', '"equal"}')]))
    with pytest.raises(ConfigError, match="another set of pairs"):
        train(tmp_path / "parts", pairs, *few)
    begun = train(tmp_path / "begun", pairs, *few, f"trainer.init_from={whole}", until=0).export
    assert torch.equal(load(begun / "model.safetensors")["linear.weight"], one["linear.weight"])
    with pytest.raises(CheckpointError, match=r"other settings of job\.hidden"):
        train(tmp_path / "other", pairs, f"trainer.init_from={whole}", "trainer.steps=6")


def test_more_choices_are_another_run_and_replace_the_reward(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "own"
    given = ("trainer.steps=2", "trainer.device=cpu", "model.prompts=false")
    assert command("reward", "train", write_pairs(tmp_path / "made", 6), "-o", out, *given).code == 0
    first = json.loads((out / "config.json").read_text())
    done = command("reward", "train", write_pairs(tmp_path / "made", 8), "-o", out, *given)
    assert done.code == 0 and ("held-out" in done.out or "None that says" in done.out)
    second = json.loads((out / "config.json").read_text())
    assert (first["pairs"], second["pairs"]) == (6, 8) and first["pairs_hash"] != second["pairs_hash"]
    assert make_reward(RewardSpec("preference", {"weights": out})).marks.keys() == {"preference"}
    (tmp_path / "mine").mkdir()
    refused = command("reward", "train", tmp_path / "made" / "pairs.jsonl", "-o", tmp_path / "mine")
    assert refused.code == 3 and "holds no trained reward" in refused.err


def test_everything_wrong_with_a_file_is_said_at_once(command: Command, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "made", 3)
    good = pairs.read_text().splitlines()
    (pairs.parent / "note.png").write_text("no picture")
    row = json.loads(good[0])
    lines = [
        good[0], "{not json", json.dumps({**row, "winner": 1}), "", json.dumps({**row, "left": "gone.png"}),
        json.dumps({**row, "choice": "lft"}), json.dumps({**row, "right": "note.png"}), "[1]",
        json.dumps({"prompt": "a", "left": "x.png"}), json.dumps({**row, "left": "/etc/passwd"}),
        json.dumps({**row, "right": row["left"]}), json.dumps({**row, "prompt": 3}), good[1][:40],
    ]  # fmt: skip
    pairs.write_text("\n".join(lines))
    with pytest.raises(FileError) as caught:
        read_pairs(pairs, pixels)
    said = str(caught.value)
    for part in (
        "not JSON (2): line 2, line 13", "unknown keys (1): line 3: 'winner'", "missing files (1): line 5: gone.png",
        "none of left, right, equal (1): line 6: 'lft'", "not a picture or a clip (1): line 7: note.png",
        "not a JSON object (1): line 8", "missing keys (2): line 9: 'right', line 9: 'choice'",
        "not relative to the file (1): line 10: 'left'", "beside itself (1): line 11", "no text (1): line 12: 'prompt'",
    ):  # fmt: skip
        assert part in said, said
    done = command("reward", "train", pairs, "-o", tmp_path / "own", "trainer.device=cpu")
    assert done.code == 3 and "line 13" in done.err
    assert not (tmp_path / "own").exists() and not (tmp_path / "own.run").exists()
    pairs.write_text("\n\n")
    with pytest.raises(FileError, match="holds no pair"):
        read_pairs(pairs, pixels)


def test_a_pair_stays_on_its_side_of_the_hold_out(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "made", 40)
    before = {pair.mark: pair.held_out(0.25) for pair in read_pairs(pairs, pixels)[0]}
    assert 2 <= sum(before.values()) <= 18
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    turned = [{**row, "left": row["right"], "right": row["left"], "choice": "equal"} for row in rows[::-1]]
    pairs.write_text("\n".join(map(json.dumps, turned[:30])))
    after = {pair.mark: pair.held_out(0.25) for pair in read_pairs(pairs, pixels)[0]}
    assert len(after) == 30 and after.items() <= before.items()


def test_clips_are_learned_from_and_scored_by_evenly_spread_frames(tmp_path: Path) -> None:
    rows = []
    for number in range(8):
        base = pictures(1, number)[0].numpy()
        for name, step in (("still", 0), ("moving", 3)):
            frames = np.stack([np.roll(base, step * t, axis=1) for t in range(7)])
            save_video(frames, tmp_path / f"{number}-{name}.webp", fps=8)
        row = {"prompt": "", "left": f"{number}-still.webp", "right": f"{number}-moving.webp", "choice": "right"}
        rows.append(json.dumps(row))
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    out = train(tmp_path / "run", tmp_path / "pairs.jsonl", "model.frames=4", "job.held_out=0", "trainer.steps=80")
    reward = make_reward(RewardSpec("preference", {"weights": out.export}))
    base = torch.from_numpy(pictures(3, 77).numpy()).movedim(-1, 1).float() / 255
    clips = torch.stack([torch.stack([base.roll(3 * t * moves, dims=3) for t in range(7)], 1) for moves in (0, 1)])
    still, moving = (reward.score(each, ["", "", ""]) for each in clips)
    assert bool((moving > still).all())
    x = clips[1].clone().requires_grad_()
    reward.score(x, ["", "", ""]).sum().backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())
    assert [bool(x.grad[:, t].any()) for t in range(7)] == [t in (0, 2, 4, 6) for t in range(7)]
    assert reward.score(clips[0][:, :1], ["", "", ""]).shape == (3,), "a picture is a clip of one frame"
    assert spread(9, 3) == [0, 4, 8] and spread(2, 5) == [0, 1] and spread(9, 1) == [4]


def test_a_score_is_its_own_and_its_gradient_reaches_pixels(tmp_path: Path) -> None:
    out = train(tmp_path / "run", write_pairs(tmp_path / "made", 12), "trainer.steps=8").export
    reward = make_reward(RewardSpec("preference", {"weights": out}))
    x = torch.rand(3, 2, 3, 40, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    prompts = ["a cat", "a dog", "a cat"]
    scores = reward.score(x, prompts)
    alone = torch.cat([reward.score(clip[None], [prompt]) for clip, prompt in zip(x, prompts, strict=True)])
    assert scores.shape == (3,) and scores.dtype == torch.float32 and torch.allclose(scores, alone, atol=1e-5)
    scores.sum().backward()
    assert x.grad is not None and (x.grad != 0).float().mean() > 0.99 and bool(torch.isfinite(x.grad).all())
    plain = torch.full((1, 3, 3, 16, 16), 0.5, requires_grad=True)
    reward.score(plain, ["a cat"]).sum().backward()
    assert plain.grad is not None and bool(torch.isfinite(plain.grad).all()), "a plain clip has slopes too"
    assert set(reward.marks) == {"preference", "text encoder"}


def test_folders_that_are_no_reward(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give weights"):
        make_reward("preference")
    with pytest.raises(CheckpointError, match="no folder"):
        make_reward(RewardSpec("preference", {"weights": tmp_path / "gone"}))
    out = train(tmp_path / "run", write_pairs(tmp_path / "made", 4), "trainer.steps=1", "job.held_out=0").export
    config = json.loads((out / "config.json").read_text())
    assert config["agreement"] is None and config["held_out"] == 0
    (out / "config.json").write_text(json.dumps({**config, "agreement": 2, "frames": 0, "pair": 1}))
    with pytest.raises(CheckpointError, match=r"frames is 0.*agreement is 2.*pair is unknown"):
        make_reward(RewardSpec("preference", {"weights": out}))
    (out / "config.json").write_text(json.dumps({**config, "hidden": 5}))
    with pytest.raises(CheckpointError, match=r"missing.*bend"):
        make_reward(RewardSpec("preference", {"weights": out}))


def test_a_picture_with_transparency_lies_on_white_as_where_it_is_scored(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 6), (255, 0, 0, 128)).save(tmp_path / "a.png")
    seen = pixels(tmp_path / "a.png")
    assert seen.shape == (1, 6, 8, 3) and seen[0, 0, 0].tolist() == [255, 127, 127]
    assert (seen == read_clip(tmp_path / "a.png").frames).all()
    # A still WebP is a picture, not a clip of one frame.
    Image.new("RGBA", (8, 6), (255, 0, 0, 128)).save(tmp_path / "a.webp", lossless=True)
    assert (pixels(tmp_path / "a.webp") == seen).all() and (read_clip(tmp_path / "a.webp").frames == seen).all()
    # And of a clip every frame lies on white.
    clear = [Image.new("RGBA", (8, 6), (shade, 0, 0, 0)) for shade in (0, 200)]
    clear[0].save(tmp_path / "b.webp", save_all=True, append_images=clear[1:], lossless=True, exact=True)
    assert (pixels(tmp_path / "b.webp") == 255).all()
