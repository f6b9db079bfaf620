"""The dual encoder's training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from frolic.config import load_recipe
from frolic.data.captioned import HeldOut, meaning, reduced
from frolic.data.scenes import Cast, scenes
from frolic.errors import ConfigError
from frolic.io.safetensors import load
from frolic.models.dual import DualConfig, DualEncoder
from frolic.rewards import RewardSpec, make_reward
from frolic.train.jobs import built_in
from frolic.train.objectives.contrastive import contrast
from frolic.train.trainer import Trainer
from small_pack import small_concepts, small_sprites, write_small_pack

JOBS = built_in()


def plain(logits: list[list[float]], meaning: list[int]) -> float:
    """The loss of CLIP written out: each row and each column is a question whose answer is on the diagonal."""
    count = len(logits)
    total = 0.0
    for k in range(count):
        others = [n for n in range(count) if n == k or meaning[n] != meaning[k]]
        total -= logits[k][k] - math.log(sum(math.exp(logits[k][n]) for n in others))
        total -= logits[k][k] - math.log(sum(math.exp(logits[n][k]) for n in others))
    return total / (2 * count)


@pytest.mark.parametrize("kinds", [[1, 2, 3, 4], [1, 2, 1, 3], [7, 7, 7, 7]])
def test_the_loss_is_the_plain_formula(kinds: list[int]) -> None:
    logits = 3 * torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(contrast(logits, torch.tensor(kinds))) == pytest.approx(plain(logits.tolist(), kinds), abs=1e-9)


def test_gradients_stay_finite_where_all_is_masked() -> None:
    logits = torch.randn(3, 3).requires_grad_()
    contrast(logits, torch.tensor([1, 1, 1])).backward()
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())


def test_what_a_text_says_does_not_depend_on_padding() -> None:
    encoder = DualEncoder(DualConfig(text_width=16, embedding=8))
    states = torch.randn(1, 5, 16)
    padded = torch.cat([states, torch.randn(1, 3, 16)], dim=1)
    mask = torch.tensor([[True] * 5 + [False] * 3])
    assert torch.allclose(encoder.text(states, mask[:, :5]), encoder.text(padded, mask), atol=1e-6)


def test_scenes_mean_the_same_where_each_caption_is_true_of_the_other() -> None:
    concepts = small_concepts()
    made = scenes(Cast(concepts), 400, 0)
    keys = [meaning(scene, concepts) for scene in made]
    singles = [(s.things[0].concept, s.ground, k) for s, k in zip(made, keys, strict=True) if s.kind == "single"]
    assert len({key for *_, key in singles}) == len({(concept, ground) for concept, ground, _ in singles})
    counted = [(len(s.things), k) for s, k in zip(made, keys, strict=True) if s.kind == "count"]
    assert all(k != other for n, k in counted for m, other in counted if n != m)
    held = HeldOut.make(Cast(concepts), 1, {"single": 1.0, "two": 1.0})
    assert len({meaning(scene, concepts) for scene in held.scenes}) == len(held.scenes) > 2


def test_reduced_cut_outs_keep_their_colour_at_the_rim() -> None:
    sprites = small_sprites(32)
    sprites[:, :3] = torch.tensor([200, 40, 90], dtype=torch.uint8).view(3, 1, 1)
    sprites[:, :3] *= (sprites[:, 3:] > 0).to(torch.uint8)  # black under what is transparent
    small = reduced(sprites, 12)
    seen = small[:, 3] > 20
    colours = small[:, :3].movedim(1, -1)[seen].float()
    assert small.shape == (10, 4, 12, 12) and (colours - torch.tensor([200.0, 40.0, 90.0])).abs().max() < 3


def train(folder: Path, pack: Path, *changes: str, until: int | None = None) -> Any:
    given = [f"data.pack={pack}", f"output.folder={folder}", "trainer.device=cpu", "data.few=6", "data.held_out=1"]
    recipe = load_recipe(
        "starter/dual-encoder", [*given, "model.config.widths=[8, 8, 8, 8]", *changes], "ci", jobs=JOBS
    )
    return Trainer(recipe, JOBS.build(recipe)).run(until=until)


def test_a_run_goes_on_where_it_stopped_and_ends_in_a_reward(tmp_path: Path) -> None:
    pack = write_small_pack(tmp_path / "pack")
    whole = train(tmp_path / "whole", pack).export
    assert train(tmp_path / "parts", pack, until=2).step == 2
    parts = train(tmp_path / "parts", pack).export
    one, other = (load(folder / "model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    facts = json.loads((whole / "config.json").read_text())
    assert 0 <= facts["_picture_to_caption_top1"] <= 1 and facts["_held_out_scenes"] > 2
    reward = make_reward(RewardSpec("alignment", {"weights": whole}))
    assert reward.score(torch.rand(1, 1, 3, 32, 32), ["a cup"]).shape == (1,)
    begun = train(tmp_path / "again", pack, f"trainer.init_from={whole}", until=0).export
    assert all(torch.equal(tensor, one[name]) for name, tensor in load(begun / "model.safetensors").items())


def test_what_cannot_be_meant(tmp_path: Path) -> None:
    pack = write_small_pack(tmp_path / "pack")
    with pytest.raises(ConfigError, match=r"trainer\.accumulation"):
        train(tmp_path / "run", pack, "trainer.accumulation=2")
    with pytest.raises(ConfigError, match=r"text_width is 100"):
        train(tmp_path / "run", pack, "model.config.text_width=100")
