"""The shipped dual encoder as a reward."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import frolic
from frolic.errors import CheckpointError, ConfigError
from frolic.io.safetensors import load
from frolic.rewards import RewardSpec, make_reward
from frolic.rewards.dual import CONFIG, WEIGHTS, Alignment, shipped
from tiny import write_tiny_folder

PROMPTS = ["a red panda", "a strawberry", "a blue car", "a guitar", "a cat on grass", "three apples"]


@pytest.fixture(scope="module")
def reward() -> Alignment:
    made = make_reward("alignment")
    assert isinstance(made, Alignment)
    return made


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """[6, 1, 3, 256, 256] in [0, 1]: what the starter draws of the prompts, in a few steps."""
    pixels = frolic.load("starter", device="cpu")(PROMPTS, seed=3, steps=6, output="tensor").pixels
    assert pixels is not None
    return (pixels[:, None].float() + 1) / 2


def test_it_knows_which_picture_was_drawn_of_which_prompt(reward: Alignment, pictures: Tensor) -> None:
    with torch.no_grad():
        table = torch.stack([reward.score(pictures, [prompt] * len(PROMPTS)) for prompt in PROMPTS])
    assert table.dtype == torch.float32 and bool((table.abs() <= 1.0001).all())
    own = torch.arange(len(PROMPTS))
    assert (table.argmax(dim=1) == own).sum() >= 5 and (table.argmax(dim=0) == own).sum() >= 5


def test_a_clip_scores_the_mean_of_its_frames_whoever_is_beside_it(reward: Alignment) -> None:
    clips = torch.rand(3, 4, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    scores = reward.score(clips, PROMPTS[:3])
    alone = torch.cat([reward.score(clip[None], [prompt]) for clip, prompt in zip(clips, PROMPTS, strict=False)])
    frames = torch.stack([reward.score(clips[:, t : t + 1], PROMPTS[:3]) for t in range(4)])
    assert torch.allclose(scores, alone, atol=2e-6) and torch.allclose(scores, frames.mean(dim=0), atol=2e-6)
    assert scores.std() > 1e-3


def test_gradients_reach_every_pixel_and_lead_upwards(reward: Alignment) -> None:
    x = torch.rand(2, 1, 3, 96, 96, generator=torch.Generator().manual_seed(1)).requires_grad_()
    before = reward.score(x, PROMPTS[:2])
    before.sum().backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all()) and (x.grad != 0).float().mean() > 0.99
    better = (x + 0.05 * x.grad / x.grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)).detach()
    assert bool((reward.score(better, PROMPTS[:2]) > before).all())
    assert all(parameter.grad is None for parameter in reward.parameters())


def test_prompts_are_read_once_and_scores_open_no_files(reward: Alignment, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    states = reward.prompts.reader.states
    monkeypatch.setattr(reward.prompts.reader, "states", lambda *given: read.append(given) or states(*given))
    x = torch.rand(2, 1, 3, 64, 64)

    def refuse(*given: Any, **named: Any) -> Any:
        raise AssertionError(f"score opens {given}")

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refuse)
        patch.setattr(Path, "open", refuse)
        with torch.inference_mode():
            reward.score(x, ["an unread text", "another unread text"])
        assert len(read) == 2
        # What was remembered in inference mode serves training.
        reward.score(x.clone().requires_grad_(), ["another unread text", "an unread text"]).sum().backward()
    assert len(read) == 2
    monkeypatch.setattr(reward.prompts._kept, "most", 3)
    reward.score(torch.rand(5, 1, 3, 64, 64), ["one", "two", "three", "four", "one"])
    assert len(reward.prompts._kept) == 3 and len(read) == 7, "the first was forgotten again"


def test_marks_are_of_all_that_is_read(reward: Alignment) -> None:
    assert set(reward.marks) == {"dual encoder", "text encoder"}
    assert all(len(mark) == 64 for mark in reward.marks.values())
    assert reward.differentiable and reward.least_frames == 1


def test_what_ships_is_small_and_half_as_wide() -> None:
    assert sum(path.stat().st_size for path in shipped().iterdir()) < 700_000
    assert {tensor.dtype for tensor in load(shipped() / WEIGHTS).values()} == {torch.bfloat16}


def test_weights_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    tiny = write_tiny_folder(tmp_path / "tiny")
    with pytest.raises(CheckpointError, match="another text encoder"):
        make_reward(RewardSpec("alignment", {"text": str(tiny)}))
    folder = tmp_path / "dual"
    folder.mkdir()
    config = (shipped() / CONFIG).read_text()
    (folder / WEIGHTS).write_bytes((shipped() / WEIGHTS).read_bytes())
    (folder / CONFIG).write_text(config.replace('"embedding": 96', '"embedding": 88, "embeding": 3'))
    with pytest.raises(CheckpointError, match="embeding is unknown, did you mean 'embedding'"):
        make_reward(RewardSpec("alignment", {"weights": folder}))
    (folder / CONFIG).write_text(config.replace('"embedding": 96', '"embedding": 88'))
    with pytest.raises(CheckpointError, match=r"wrong shape.*image\.out"):
        make_reward(RewardSpec("alignment", {"weights": folder}))
    with pytest.raises(ConfigError, match="cannot be made so"):
        make_reward(RewardSpec("alignment", {"wieghts": "x"}))
