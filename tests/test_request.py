from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from frolic.errors import RequestError
from frolic.request import MAX_SEED, SAMPLERS, Request
from frolic.request.checks import MAX_PROMPT
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
        ({"apg_eta": 0.5}, "give apg too"),
        ({"pag_layers": (1,)}, "which blocks pag_scale perturbs"),
        ({"schedule": "nativ"}, "did you mean 'native'"),
        ({"aspect": "wide"}, "aspect is 'wide'"),
        ({"aspect": "9:1"}, "at most 4 times"),
        ({"aspect": "1:1", "width": 64}, "aspect already decides the size"),
        ({"binning": 1.5}, "binning is 1.5"),
        ({"guidance_interval": (0.8, 0.2)}, "the lower one first"),
        ({"guidance_interval": [0.1, 2]}, "guidance_interval is"),
        ({"apg": True, "pag_scale": 2.0}, "exclude each other"),
        ({"apg": True, "apg_momentum": -2}, "apg_momentum is -2"),
        ({"pag_scale": -1}, "pag_scale is -1"),
        ({"pag_layers": (), "pag_scale": 1.0}, "pag_layers must be"),
        ({"pag_layers": [-1], "pag_scale": 1.0}, "block of pag_layers is -1"),
        ({"strength": 0}, "strength is 0"),
        ({"strength": 1.1}, "strength is 1.1"),
        ({"control_scale": math.inf}, "control_scale is inf"),
        ({"instruction": 7}, "instruction must be a text"),
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


@pytest.mark.parametrize(("asked", "drawn"), [(100, 128), (112, 128), (1, 32), (128, 128), (8192, 8192)])
def test_a_size_that_cannot_be_drawn_is_covered_and_said(asked: int, drawn: int) -> None:
    request, notes = Request.of("a", seed=1, width=asked, height=64).completed(DEFAULTS, 32)
    assert (request.width, request.height) == (asked, 64) and request.drawn(DEFAULTS, 32) == (64, drawn)
    assert notes == ([] if asked == drawn else [f"Drawn at {drawn}x64 and brought to {asked}x64."])


BINNED = replace(DEFAULTS, height=1024, width=1024, bin_base=1024)


def test_a_model_with_a_table_of_sizes_draws_at_the_nearest() -> None:
    request, notes = Request.of("a", seed=1, width=1000, height=1000).completed(BINNED, 32)
    assert (request.width, request.height, request.binning) == (1000, 1000, True)
    assert request.drawn(BINNED, 32) == (1024, 1024) and notes == ["Drawn at 1024x1024 and brought to 1000x1000."]
    plain, _ = Request.of("a", seed=1, width=1000, height=1000, binning=False).completed(BINNED, 32)
    assert plain.drawn(BINNED, 32) == (1024, 1024) and not plain.binning
    with pytest.raises(RequestError, match="no table of sizes"):
        Request.of("a", binning=True).completed(DEFAULTS, 32)


@pytest.mark.parametrize(("aspect", "size"), [("1:1", (1024, 1024)), ("16:9", (1344, 768)), ("9/16", (768, 1344))])
def test_an_aspect_becomes_a_size_of_the_table(aspect: str, size: tuple[int, int]) -> None:
    request, notes = Request.of("a", seed=1, aspect=aspect).completed(BINNED, 32)
    assert (request.width, request.height) == size and request.aspect is None and notes == []


def test_an_aspect_without_a_table_keeps_the_number_of_pixels() -> None:
    request, _ = Request.of("a", seed=1, aspect="3:1").completed(replace(DEFAULTS, width=128), 32)
    assert (request.width, request.height) == (224, 64)


def test_a_missing_seed_is_drawn() -> None:
    seeds = {Request.of("a").seeded().seed for _ in range(8)}
    assert len(seeds) > 1 and all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds)


def test_names_and_limits_agree_with_the_samplers() -> None:
    assert set(SAMPLERS) == set(solvers.SAMPLERS)
    assert MAX_SEED == noise.MAX_SEED


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"apg": True, "guidance_scale": 1.0}, "apg needs a guidance_scale above 1"),
        ({"guidance_interval": (0.1, 0.5), "guidance_scale": 0.0}, "guidance_interval needs guidance"),
        ({"pag_scale": 1.0, "pag_layers": (3,)}, "there is no block 3 to perturb; this model has 0 to 2"),
    ],
)
def test_what_the_model_or_the_rest_rules_out_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Request.of("a", **fields).completed(DEFAULTS, 32, 3)
