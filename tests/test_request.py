from __future__ import annotations

import math
from typing import Any

import pytest

from frolic.errors import RequestError
from frolic.request import MAX_PROMPT, MAX_SEED, SAMPLERS, Request
from frolic.sampling import noise, solvers
from frolic.spec import SamplingDefaults

DEFAULTS = SamplingDefaults(
    height=128, width=96, steps=20, guidance_scale=4.5, sampler="dpmpp_2m", shift=3.0, max_tokens=32
)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1001}, "steps is 1001"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": True}, "steps is True"),
        ({"guidance_scale": math.nan}, "guidance_scale is nan"),
        ({"guidance_scale": math.inf}, "guidance_scale is inf"),
        ({"guidance_scale": -1}, "guidance_scale is -1"),
        ({"guidance_scale": "4"}, "guidance_scale is '4'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
        ({"seed": [1, -2]}, "seed is -2"),
        ({"seed": [1, 2]}, "2 seeds for 1 pictures"),
        ({"height": 0}, "height is 0"),
        ({"width": 8193}, "width is 8193"),
        ({"num_images": 0}, "num_images is 0"),
        ({"num_images": 1001}, "num_images is 1001"),
        ({"sampler": "eulr"}, "sampler is 'eulr'"),
        ({"negative_prompt": "x" * (MAX_PROMPT + 1)}, "negative_prompt has 20,001 characters"),
        ({"negative_prompt": 3}, "negative_prompt must be a text"),
        ({"stepz": 3}, "did you mean 'steps'"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request.of("a red panda", **fields)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("prompt", [(), [1], "x" * 300_000, "\ud800", ["fine", "x" * 20_001]])
def test_prompts_that_are_no_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(RequestError):
        Request.of(prompt)


@pytest.mark.parametrize("prompt", [5, None, b"a cat", 2.5])
def test_what_is_neither_text_nor_texts_is_refused(prompt: Any) -> None:
    with pytest.raises(RequestError, match="prompt must be a text or a list of texts"):
        Request.of(prompt)


@pytest.mark.parametrize("prompts", ["a red panda", ["a"], None])
def test_a_request_says_what_its_own_constructor_takes(prompts: Any) -> None:
    with pytest.raises(RequestError, match=r"must be a tuple of texts; Request\.of takes"):
        Request(prompts)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        Request.of("x", steps=0, guidance_scale=math.nan, seed=-1, width=0)
    assert all(word in str(caught.value) for word in ("steps", "guidance_scale", "seed", "width"))


def test_pictures_are_in_order_and_their_seeds_count_up() -> None:
    request = Request.of(["a", "b"], num_images=3, seed=10)
    assert [request.prompt_of(i) for i in range(6)] == ["a", "a", "a", "b", "b", "b"]
    assert request.seeds == (10, 11, 12, 13, 14, 15)
    assert Request.of("a", num_images=2, seed=MAX_SEED).seeds == (MAX_SEED, 0)
    assert Request.of(["a", "b"], seed=[5, 5]).seeds == (5, 5)
    assert request.picture(4) == {**Request.of("b", seed=14).picture(0)}


def test_the_model_fills_in_what_was_left_open() -> None:
    request, notes = Request.of("a", seed=1).completed(DEFAULTS, 32)
    assert (request.width, request.height, request.steps, request.guidance_scale) == (96, 128, 20, 4.5)
    assert (request.sampler, request.negative_prompt, notes) == ("dpmpp_2m", "", [])


@pytest.mark.parametrize(("asked", "drawn"), [(100, 96), (112, 128), (1, 32), (127, 128), (8192, 8192)])
def test_a_size_is_rounded_and_said(asked: int, drawn: int) -> None:
    request, notes = Request.of("a", seed=1, width=asked, height=64).completed(DEFAULTS, 32)
    assert (request.width, request.height) == (drawn, 64)
    assert len(notes) == (asked != drawn)
    assert not notes or f"{asked}x64 is not a multiple of 32; drawing {drawn}x64." in notes


def test_a_missing_seed_is_drawn() -> None:
    seeds = {Request.of("a").seeded().seed for _ in range(8)}
    assert len(seeds) > 1 and all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds)


def test_names_and_limits_agree_with_the_samplers() -> None:
    assert set(SAMPLERS) == set(solvers.SAMPLERS)
    assert MAX_SEED == noise.MAX_SEED
