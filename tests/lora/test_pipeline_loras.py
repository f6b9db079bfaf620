"""Adapters in a pipeline: blends, schedules, branches, blocks, and a blend for every prompt of a batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import frolic
from dialects import save
from frolic.errors import CheckpointError, RequestError
from frolic.io.safetensors import load as load_tensors
from frolic.pipeline import Pipeline
from frolic.pipeline.parts import Reread
from frolic.strength import Strength
from tiny import write_tiny_folder

SEED, STEPS = 3, 4
PROMPTS = ["a red panda", "an orange cat"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, adapters ``a`` and ``b`` (and ``a2``, the same as ``a``), and the model with ``a`` merged in."""
    folder = tmp_path_factory.mktemp("loras")
    model = write_tiny_folder(folder / "model")
    transformer = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_tensors(transformer)
    merged = write_tiny_folder(folder / "merged")
    for name, seed in (("a", 1), ("b", 2)):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for key, weight in weights.items():
            module, _, kind = key.rpartition(".")
            linear = weight.ndim == 2 or (weight.ndim == 4 and weight.shape[2:] == (1, 1))
            if kind != "weight" or not linear or "norm" in key or not key.startswith("transformer_blocks"):
                continue
            down = torch.randn(2, weight.shape[1], generator=generator) / weight.shape[1] ** 0.5
            up = 0.4 * torch.randn(weight.shape[0], 2, generator=generator)
            tensors[f"transformer.{module}.lora_A.weight"] = down
            tensors[f"transformer.{module}.lora_B.weight"] = up
            if name == "a":
                weights[key] = weight + (up @ down).reshape(weight.shape)
        save(tensors, folder / f"{name}.safetensors")
        save(tensors, folder / f"{name}2.safetensors")
    save(weights, merged / "transformer" / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def pipe(place: Path) -> Pipeline:
    return frolic.load(place / "model")


def draw(pipe: Pipeline, loras: Any, prompt: Any = "a red panda", **fields: Any) -> Tensor:
    result = pipe(prompt, seed=SEED, steps=STEPS, output="tensor", loras=loras, **fields)
    assert result.pixels is not None
    return result.pixels


def blend(place: Path, **strengths: Any) -> Mapping[str, Any]:
    return {str(place / f"{name}.safetensors"): strength for name, strength in strengths.items()}


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=3e-4)


def test_an_adapter_is_what_merging_it_is(place: Path, pipe: Pipeline) -> None:
    plain = draw(pipe, {})
    with_a = draw(pipe, blend(place, a=1.0))
    assert (with_a - plain).abs().max() > 0.05
    same(with_a, draw(frolic.load(place / "merged"), {}))


def test_weight_zero_and_none_are_the_same_bits_whatever_came_before(place: Path) -> None:
    plain = draw(frolic.load(place / "model"), None)
    pipe = frolic.load(place / "model")
    draw(pipe, blend(place, a=1.0))
    assert torch.equal(draw(pipe, {}), plain)
    assert torch.equal(draw(pipe, blend(place, a=0.0, b=0.0)), plain)
    pipe.loras = blend(place, a=0.7)
    assert not torch.equal(draw(pipe, None), plain)
    assert torch.equal(draw(pipe, {}), plain)  # a request's own word counts before what is usual


def test_one_of_weight_zero_beside_another_is_not_there(place: Path) -> None:
    pipe = frolic.load(place / "model")
    torch.testing.assert_close(draw(pipe, blend(place, a=0.7, b=0.0)), draw(pipe, blend(place, a=0.7)))


def test_another_blend_reads_nothing_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from frolic import adapters

    pipe, reads = frolic.load(place / "model"), []
    true = adapters.load
    monkeypatch.setattr(adapters, "load", lambda source, goal, **options: (reads.append(source), true(source, goal))[1])
    pipe.loras = blend(place, a=0.6, b=0.4)
    first = draw(pipe, None)
    assert reads[::2] == [str(place / "a.safetensors"), str(place / "b.safetensors")], "and looked for by name"
    pipe.loras = blend(place, a=0.2, b=0.4)
    second = draw(pipe, None)
    assert len(reads) == 4 and not torch.equal(first, second)
    same(draw(pipe, blend(place, a=0.6, b=0.4)), first)
    assert dict(pipe.loras) == {
        str(place / "a.safetensors"): Strength(0.2),
        str(place / "b.safetensors"): Strength(0.4),
    }


def test_two_halves_of_the_steps_are_the_whole(place: Path, pipe: Pipeline) -> None:
    whole = draw(pipe, blend(place, a=0.8))
    early, late = Strength(0.8, end=0.5), Strength(0.8, start=0.5)
    same(draw(pipe, blend(place, a=early, a2=late)), whole)
    assert (draw(pipe, blend(place, a=early)) - whole).abs().max() > 0.02
    # The first half is as with the adapter, the rest as without.
    steps = [list(pipe.stream("a red panda", seed=SEED, steps=STEPS, loras=each))[:-1] for each in
             (blend(place, a=early), blend(place, a=0.8), {})]  # fmt: skip
    half = STEPS // 2
    for index in range(half):
        torch.testing.assert_close(steps[0][index].latents.tensor, steps[1][index].latents.tensor, rtol=0, atol=1e-4)
    assert not torch.allclose(steps[0][half].latents.tensor, steps[1][half].latents.tensor, atol=1e-3)
    assert not torch.allclose(steps[0][half - 1].latents.tensor, steps[2][half - 1].latents.tensor, atol=1e-3)


@pytest.mark.parametrize("fields", [{}, {"pag_scale": 1.0}, {"apg": True}, {"sampler": "dpmpp_2m_heun"}], ids=str)
def test_both_branches_are_the_whole(place: Path, pipe: Pipeline, fields: dict[str, Any]) -> None:
    whole = draw(pipe, blend(place, a=0.8), negative_prompt="two dogs under the moon", **fields)
    parts = blend(place, a=Strength(0.8, branch="cond"), a2=Strength(0.8, branch="uncond"))
    same(draw(pipe, parts, negative_prompt="two dogs under the moon", **fields), whole)
    only = draw(pipe, blend(place, a=Strength(0.8, branch="cond")), negative_prompt="two dogs under the moon", **fields)
    assert (only - whole).abs().max() > 0.01


def test_all_blocks_are_the_whole(place: Path, pipe: Pipeline) -> None:
    parts = blend(place, a=Strength(0.8, blocks=(0, 0)), a2=Strength(0.8, blocks=(1, 1)))
    same(draw(pipe, parts), draw(pipe, blend(place, a=0.8)))


def test_every_prompt_of_a_batch_has_its_own_blend(place: Path, pipe: Pipeline) -> None:
    mixes = [blend(place, a=0.9), {}, blend(place, a=-0.5, b=Strength(0.5, start=0.5))]
    prompts = ["a red panda", "a red panda", "an orange cat"]
    together = draw(pipe, mixes, prompts, negative_prompt="two dogs")
    for row, (mix, prompt) in enumerate(zip(mixes, prompts, strict=True)):
        alone = pipe(
            prompt, seed=SEED + row, steps=STEPS, output="tensor", loras=mix, negative_prompt="two dogs"
        ).pixels
        assert alone is not None
        same(together[row], alone[0])
    with pytest.raises(RequestError, match="2 blends of loras for 3 prompts"):
        draw(pipe, mixes[:2], prompts)


def test_a_record_says_which_and_how_much_and_no_path(place: Path, pipe: Pipeline) -> None:
    result = pipe(PROMPTS, seed=1, steps=2, loras=[blend(place, a=0.6), blend(place, b=Strength(0.4, end=0.5))])
    first, second = result.record(0), result.record(1)
    assert first["request"]["loras"] == {"a": 0.6}
    assert second["request"]["loras"] == {"b": {"weight": 0.4, "end": 0.5}}
    assert first["adapters"].keys() == {"a", "b"} and str(place) not in json.dumps(first)
    again = pipe(result.request)  # a completed request calls them by those names
    assert again.images[0].tobytes() == result.images[0].tobytes()
    assert "loras" not in pipe("a cat", seed=1, steps=1, loras={}).record()["request"]


def test_drawings_that_take_turns(place: Path) -> None:
    """Of one pipeline, with other adapters and with none: each comes out as if it were alone."""
    wanted = [
        draw(frolic.load(place / "model"), each) for each in (blend(place, a=0.8), {}, blend(place, b=0.5, a2=0.1))
    ]
    pipe = frolic.load(place / "model")
    streams = [
        pipe.stream("a red panda", seed=SEED, steps=STEPS, output="tensor", loras=each)
        for each in (blend(place, a=0.8), {}, blend(place, b=0.5, a2=0.1))
    ]
    events: list[Any] = [None] * len(streams)
    for _ in range(STEPS + 1):
        events = [next(stream) for stream in streams]
    for event, pixels in zip(events, wanted, strict=True):
        same(event.pixels, pixels)
    assert torch.equal(draw(pipe, {}), wanted[1])
    abandoned = pipe.stream("a red panda", seed=SEED, steps=STEPS, loras=blend(place, a=0.8))
    next(abandoned)
    abandoned.close()
    assert torch.equal(draw(pipe, {}), wanted[1])


def test_parts_that_are_read_when_needed(place: Path) -> None:
    spare = frolic.load(place / "model", memory="low")
    spare.loras = blend(place, a=0.8)
    held = spare._held["transformer"]
    assert isinstance(held, Reread) and held._module is None, "an adapter is read without the model"
    wanted = draw(frolic.load(place / "model"), blend(place, a=0.8))
    for _ in range(2):
        same(draw(spare, None), wanted)


def test_what_does_not_fit_changes_nothing(place: Path, tmp_path: Path, pipe: Pipeline) -> None:
    pipe.loras = blend(place, a=0.5)
    before = draw(pipe, None)
    save({"transformer.nowhere.lora_A.weight": torch.ones(1, 2)}, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match="of no layer of this model"):
        pipe.loras = {str(tmp_path / "bad.safetensors"): 1.0}
    assert torch.equal(draw(pipe, None), before)
    pipe.loras = {}
    for wrong in ({"x": "much"}, {"x": 1e9}, ["x"], {"x": {"weigth": 1}}):
        with pytest.raises(RequestError):
            pipe.loras = wrong  # type: ignore[assignment]
