"""The adapters that ship with frolic: two styles, and what was trained against rewards."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import frolic
from frolic.adapters import shelf
from frolic.io.safetensors import fingerprint
from frolic.plan import find_model
from frolic.rewards import make_reward

NAMES = ("neon", "sketch")
PROMPTS = ["a dog", "a strawberry", "a robot"]


@pytest.fixture(scope="module")
def pipe() -> frolic.Pipeline:
    return frolic.load("starter", device="cpu", dtype="float32")


def drawn(pipe: frolic.Pipeline, **loras: float) -> Tensor:
    pixels = pipe(PROMPTS, seed=3, loras=dict(loras), output="tensor").pixels
    assert pixels is not None
    return (pixels + 1) / 2


def test_they_are_small_and_say_what_they_are(command: Callable[..., Any]) -> None:
    listed = {each["name"]: each for each in json.loads(command("lora", "list", "--json").out)["adapters"]}
    for name in NAMES:
        each = listed[name]
        assert each["shipped"] and each["bytes"] < 1_000_000
        assert each["base"] == "starter" and each["rank"] and each["about"] and each["trained_on"]
    assert fingerprint([shelf.named()["neon"]]) != fingerprint([shelf.named()["sketch"]])
    assert find_model("starter").is_dir()


def test_their_styles_are_seen(pipe: frolic.Pipeline) -> None:
    plain, sketch, neon = drawn(pipe), drawn(pipe, sketch=1.0), drawn(pipe, neon=1.0)

    def colourful(x: Tensor) -> float:
        return float((x.amax(1) - x.amin(1)).mean())

    # A pencil has no colours, and light tubes are in the dark.
    assert colourful(sketch) < 0.6 * colourful(plain)
    assert float(neon.mean()) < 0.4 < float(sketch.mean())
    half = drawn(pipe, sketch=0.5, neon=0.5)
    assert all((half - other).abs().mean() > 0.02 for other in (plain, sketch, neon))
    assert torch.equal(drawn(pipe, sketch=0.0, neon=0.0), plain)


REWARDED = {"vivid": "vivid", "fun": "fun"}
"""Adapters of the image starter, and the reward that each was trained for."""


def test_reward_adapters_say_what_they_gained(command: Callable[..., Any]) -> None:
    listed = {each["name"]: each for each in json.loads(command("lora", "list", "--json").out)["adapters"]}
    rewarded = {name: each for name, each in listed.items() if each["reward"]}
    assert set(REWARDED) <= set(rewarded)
    for each in rewarded.values():
        reward = each["reward"]
        assert each["shipped"] and each["bytes"] < 1_000_000
        assert reward["gain_sd"] > 0 and reward["held_out"] and reward["made_from"]["prompts"]
        assert min(reward["held_out"].values()) >= -0.1, "nothing that was watched fell"
    assert all(listed[name]["reward"]["name"] == reward for name, reward in REWARDED.items())
    assert "deviations more" in command("lora", "list").out


def test_they_raise_their_rewards_by_weight_and_together(pipe: frolic.Pipeline) -> None:
    rewards = {name: make_reward(reward) for name, reward in REWARDED.items()}

    def scores(**loras: float) -> dict[str, float]:
        frames = drawn(pipe, **loras)[:, None]
        return {name: float(reward.score(frames, PROMPTS).mean()) for name, reward in rewards.items()}

    plain = scores()
    for name in REWARDED:
        sweep = [plain[name], *(scores(**{name: weight})[name] for weight in (0.4, 0.8))]
        assert sweep == sorted(sweep) and sweep[-1] > sweep[0]
    both = scores(vivid=0.6, fun=0.4)
    assert all(both[name] > plain[name] for name in REWARDED)


CLIPS = ["a dog bouncing", "a pizza moving to the left"]
OF_CLIPS = {"vivid-clips": "vivid", "lively": "lively"}
"""Adapters of the video starter, and the reward that each was trained for."""


def test_adapters_of_the_video_starter_raise_their_rewards_and_keep_it_moving(command: Callable[..., Any]) -> None:
    listed = {each["name"]: each for each in json.loads(command("lora", "list", "--json").out)["adapters"]}
    assert all(listed[name]["base"] == "starter-video" for name in OF_CLIPS)
    assert all(listed[name]["reward"]["gain_sd"] >= 1 for name in OF_CLIPS)
    pipe = frolic.load("starter-video", device="cpu", dtype="float32")
    rewards = {name: make_reward(reward) for name, reward in OF_CLIPS.items()}

    def scores(**loras: float) -> dict[str, float]:
        weights = {name.replace("_", "-"): weight for name, weight in loras.items()}
        pixels = pipe(CLIPS, seed=3, loras=dict(weights), output="tensor").pixels
        assert pixels is not None
        frames = (pixels / 2 + 0.5).transpose(1, 2)
        return {name: float(reward.score(frames, CLIPS).mean()) for name, reward in rewards.items()}

    plain, vivid, lively = scores(), scores(vivid_clips=1.0), scores(lively=1.0)
    both = scores(vivid_clips=0.6, lively=0.4)
    assert vivid["vivid-clips"] > plain["vivid-clips"] and lively["lively"] > plain["lively"]
    assert vivid["lively"] > 0.9 * plain["lively"], "it has not stopped"
    assert all(both[name] > plain[name] for name in OF_CLIPS)
