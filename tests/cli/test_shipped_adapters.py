"""The two adapters that ship with frolic."""

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
