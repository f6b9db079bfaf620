from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from frolic.errors import RequestError
from frolic.request import MAX_FRAMES, MAX_PROMPT, MAX_SEED, SAMPLERS, Request, batch_size
from frolic.request.sizes import sides_of
from frolic.sampling import noise, solvers
from frolic.spec import SamplingDefaults
from frolic.strength import Strength

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
        ({"frames": 0}, "frames is 0, it must be 1 to 1025"),
        ({"frames": 10**6}, "frames is 1000000"),
        ({"frames": 16.5}, "frames is 16.5"),
        ({"seconds": 0}, "seconds is 0, it must be above 0"),
        ({"seconds": math.nan}, "seconds is nan"),
        ({"seconds": 1e9}, "seconds is 1000000000.0"),
        ({"seconds": 2, "frames": 33}, "leave out frames"),
        ({"fps": 0}, "fps is 0, it must be 1 to 120"),
        ({"fps": 121}, "fps is 121"),
        ({"fps": "16"}, "fps is '16'"),
        ({"guidance_scale_2": -1}, "guidance_scale_2 is -1, it must be 0 to 100"),
        ({"guidance_scale_2": math.inf}, "guidance_scale_2 is inf"),
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


VIDEO = replace(DEFAULTS, frames=81, fps=16.0, frame_stride=4)
EXPERTS = replace(VIDEO, guidance_scale=4.0, boundary=0.875, guidance_scale_2=3.0)


@pytest.mark.parametrize(
    ("fields", "frames", "fps", "notes"),
    [
        ({}, 81, 16.0, []),
        ({"frames": 49}, 49, 16.0, []),
        ({"frames": 50}, 49, 16.0, ["Drawn with 49 frames, the nearest that this model has to 50."]),
        ({"frames": 51}, 49, 16.0, ["Drawn with 49 frames, the nearest that this model has to 51."]),
        ({"frames": 52}, 53, 16.0, ["Drawn with 53 frames, the nearest that this model has to 52."]),
        ({"frames": 2}, 1, 16.0, ["Drawn with 1 frame, the nearest that this model has to 2."]),
        ({"frames": 1}, 1, 16.0, []),
        ({"frames": MAX_FRAMES}, MAX_FRAMES, 16.0, []),
        ({"seconds": 3}, 49, 16.0, ["Drawn with 49 frames (3.06 s), the nearest that this model has to 3 s."]),
        ({"seconds": 2.7, "fps": 30}, 81, 30.0, []),
        ({"seconds": 0.001}, 1, 16.0, ["Drawn with 1 frame (0.0625 s), the nearest that this model has to 0.001 s."]),
        ({"fps": 24}, 81, 24.0, []),
    ],
)
def test_a_length_becomes_frames_that_the_model_has(
    fields: dict[str, Any], frames: int, fps: float, notes: list[str]
) -> None:
    asked = Request.of("a", seed=1, **fields)
    request, said = asked.completed(VIDEO, 32)
    assert (request.frames, request.fps, request.seconds, said) == (frames, fps, None, notes)
    assert asked.length(VIDEO) == (frames, fps) and request.is_video == (frames > 1)
    assert request.completed(VIDEO, 32) == (request, [])


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
@pytest.mark.parametrize("asked", [2, 100, 1023, MAX_FRAMES])
def test_no_stride_leads_beyond_what_can_be_asked_for(stride: int, asked: int) -> None:
    frames, _ = Request.of("a", frames=asked).length(replace(VIDEO, frame_stride=stride))
    assert 1 <= frames <= MAX_FRAMES and (frames - 1) % stride == 0 and abs(frames - asked) <= max(1, stride / 2)


def test_seconds_that_are_too_many_frames_are_refused() -> None:
    for call in (lambda r: r.completed(VIDEO, 32), lambda r: r.length(VIDEO)):
        with pytest.raises(RequestError, match="20 s at 120 frames a second are 2400 frames, the most is 1025"):
            call(Request.of("a", seconds=20, fps=120))


def test_a_model_of_pictures_refuses_what_is_for_videos_at_once() -> None:
    everything = Request.of("a", frames=2, fps=16, guidance_scale_2=3, apg=True, guidance_scale=1)
    with pytest.raises(RequestError) as caught:
        everything.completed(DEFAULTS, 32)
    assert "frames, fps and guidance_scale_2 need a model of videos" in str(caught.value)
    assert "apg needs a guidance_scale above 1" in str(caught.value)
    with pytest.raises(RequestError, match="seconds needs a model of videos"):
        Request.of("a", seconds=1).length(DEFAULTS)


def test_one_frame_is_a_picture_for_every_model() -> None:
    request, notes = Request.of("a", seed=1, frames=1).completed(DEFAULTS, 32)
    assert (request.frames, request.fps, request.is_video, notes) == (1, None, False, [])
    assert request == Request.of("a", seed=1).completed(DEFAULTS, 32)[0]


@pytest.mark.parametrize(
    ("fields", "scales"),
    [
        ({}, (4.0, 3.0)),
        ({"guidance_scale": 5}, (5.0, 5.0)),
        ({"guidance_scale_2": 2}, (4.0, 2.0)),
        ({"guidance_scale": 1, "guidance_scale_2": 6}, (1.0, 6.0)),
    ],
)
def test_each_expert_has_its_guidance(fields: dict[str, Any], scales: tuple[float, float]) -> None:
    request, _ = Request.of("a", seed=1, **fields).completed(EXPERTS, 32)
    assert (request.guidance_scale, request.guidance_scale_2) == scales and request.guided


def test_a_second_guidance_needs_a_second_expert() -> None:
    with pytest.raises(RequestError, match="for the second of two experts, and this model has one"):
        Request.of("a", guidance_scale_2=3).completed(VIDEO, 32)
    assert Request.of("a", seed=1).completed(VIDEO, 32)[0].guidance_scale_2 is None


def test_a_video_says_what_draws_it_again_and_a_picture_says_nothing_of_it() -> None:
    request, _ = Request.of("a", seed=1, seconds=3, guidance_scale=5, guidance_scale_2=2).completed(EXPERTS, 32)
    said = request.picture(0)
    assert (said["frames"], said["fps"], said["guidance_scale_2"]) == (49, 16.0, 2.0) and "seconds" not in said
    again, notes = Request.of(said.pop("prompt"), **said).completed(EXPERTS, 32)
    assert again == request and notes == []
    picture = Request.of("a", seed=1).completed(DEFAULTS, 32)[0].picture(0)
    assert not picture.keys() & {"frames", "fps", "seconds", "guidance_scale_2"}


def test_a_batch_counts_frames() -> None:
    assert batch_size(512, 512) == batch_size(512, 512, 1) == 8
    assert [batch_size(512, 512, frames) for frames in (2, 4, 5, 16, 81)] == [8, 4, 3, 1, 1]


def test_numbers_beyond_floats_are_refused_like_others() -> None:
    with pytest.raises(RequestError, match="is not within"):
        Strength(10**400)
    for aspect in ("1e-200:1e-200", "0.0001:0.0001", "1e200:1e200"):
        for bins in (0, 1024):
            width, height = sides_of(aspect, replace(DEFAULTS, width=128, bin_base=bins), 32)
            assert width == height
