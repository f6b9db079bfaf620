"""Steps of which most is taken over from an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import frolic
from frolic.accel.cache import StepCache
from frolic.errors import RequestError
from tiny_wan import write_tiny_wan


@dataclass(frozen=True)
class State:
    x: Tensor


def blocks(log: list[int]) -> list:  # type: ignore[type-arg]
    def block(number: int):  # type: ignore[no-untyped-def]
        def apply(state: State) -> State:
            log.append(number)
            return State(state.x * 1.5 + number)

        return apply

    return [block(number) for number in range(3)]


def test_a_step_like_the_last_computed_one_takes_its_rest_over() -> None:
    log: list[int] = []
    cache, layers = StepCache(0.1), blocks(log)
    x = torch.ones(2, 3, 4)
    first = cache(layers, State(x)).x
    near = cache(layers, State(1.01 * x)).x
    assert log == [0, 1, 2, 0] and (cache.steps, cache.reused) == (2, 1)
    # The first block's own work is done; the rest is what the others added before.
    assert torch.allclose(near, 1.01 * x * 1.5 + (first - 1.5 * x))
    cache(layers, State(2 * x))
    assert log == [0, 1, 2, 0, 0, 1, 2]


def test_one_sample_that_moved_is_enough_to_compute_again() -> None:
    log: list[int] = []
    cache, layers = StepCache(0.1), blocks(log)
    x = torch.ones(2, 3, 4)
    cache(layers, State(x))
    cache(layers, State(torch.cat([x[:1], 2 * x[1:]])))
    assert cache.reused == 0
    cache(layers, State(x[:1]))  # another batch has nothing to take over
    assert cache.reused == 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_wan(tmp_path_factory.mktemp("wan") / "tiny", "t2v-two")


def drawn(pipe: frolic.Pipeline, **fields: object) -> tuple[Tensor, list[str]]:
    size = {"height": 32, "width": 32, "frames": 5, "steps": 12, "seed": 1}
    result = pipe("two dogs", output="tensor", **{**size, **fields})
    assert result.pixels is not None
    return result.pixels, result.notes


def test_a_video_with_and_without(model: Path) -> None:
    pipe = frolic.load(model, device="cpu", dtype="float32")
    plain, notes = drawn(pipe)
    assert not any("step_cache" in note for note in notes)
    none, _ = drawn(pipe, step_cache=0.0)
    assert torch.equal(plain, none)
    # So small that nothing is like it: every step is computed, and the numbers are the same.
    tiny, notes = drawn(pipe, step_cache=1e-9)
    assert torch.equal(plain, tiny) and any(note.startswith("0 of 12 calls") for note in notes)
    much, notes = drawn(pipe, step_cache=0.9)
    assert not torch.equal(plain, much) and (plain - much).abs().mean() < 0.5 * plain.std()
    # Each expert computes its first step itself.
    (said,) = [note for note in notes if "step_cache" in note]
    assert 0 < int(said.split()[0]) <= 10


def test_a_picture_too_and_what_it_does_not_go_with(tiny_folder: Path) -> None:
    pipe = frolic.load(tiny_folder)
    plain = pipe("a cat", seed=1, steps=8, output="tensor").pixels
    cached = pipe("a cat", seed=1, steps=8, output="tensor", step_cache=1.0)
    assert plain is not None and cached.pixels is not None and not torch.equal(plain, cached.pixels)
    assert cached.record()["request"]["step_cache"] == 1.0
    with pytest.raises(RequestError, match="step_cache is 2"):
        pipe("a cat", step_cache=2)
