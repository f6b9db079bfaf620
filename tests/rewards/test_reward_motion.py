"""Rewards of motion that are formulas: against plain numpy, their slopes, and what they make of easy tricks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from frolic.rewards import make_reward

NAMES = ("lively", "smooth", "loop", "steady")


def score(name: str, x: Tensor) -> float:
    made = make_reward(name).score(x, [""] * len(x))
    assert made.shape == (len(x),)
    return float(made[0])


def noise(seed: int, frames: int, height: int = 6, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, frames, 3, height, width, generator=generator, dtype=torch.float64)


def disc(x: float, y: float = 64, side: int = 128) -> Tensor:
    """[3, H, W], a soft light disc on dark ground."""
    place = torch.arange(side)
    away = ((place - x) ** 2 + (place[:, None] - y) ** 2).sqrt()
    return (0.2 + 0.6 * torch.sigmoid(2 * (20 - away))).expand(3, side, side)


def clip(frame: Callable[[int], Tensor], frames: int = 9) -> Tensor:
    return torch.stack([frame(t) for t in range(frames)])[None]


STILL = clip(lambda t: disc(64))
EVEN = clip(lambda t: disc(30 + 3 * t))
FASTER = clip(lambda t: disc(30 + 8 * t))
JERKY = clip(lambda t: disc(30 + 9 * (t // 3)))
CUT = clip(lambda t: disc(40 if t < 4 else 90))
FLICKER = clip(lambda t: disc(64) * (0.6 if t % 2 else 1.0))
TO_AND_FRO = clip(lambda t: disc(90 if t % 2 else 40))
ROUND = clip(lambda t: disc(64 + 20 * float(np.cos(t * 2 * np.pi / 9)), 64 + 20 * float(np.sin(t * 2 * np.pi / 9))))


def rms(x: np.ndarray) -> float:
    return float(np.sqrt((x**2).mean()))


def lively(x: np.ndarray) -> float:
    x = x - x.mean(axis=(2, 3), keepdims=True)
    return float(np.mean([rms(x[t + 1] - x[t - 1]) / 2 for t in range(1, len(x) - 1)]))


def smooth(x: np.ndarray) -> float:
    return -(rms(np.diff(x, 2, axis=0)) + 0.01) / (rms(np.diff(x, axis=0)) + 0.01)


def loop(x: np.ndarray) -> float:
    usual = rms(np.diff(x, axis=0))
    return -(max(0.0, rms(x[-1] - x[0]) - usual) + 0.01) / (usual + 0.01)


def steady(x: np.ndarray) -> float:
    quarters = x.reshape(len(x), 3, 2, x.shape[2] // 2, 2, x.shape[3] // 2).mean(axis=(3, 5))
    return -rms(np.diff(quarters, 2, axis=0))


FORMULAS = {"lively": lively, "smooth": smooth, "loop": loop, "steady": steady}


@pytest.mark.parametrize("name", NAMES)
def test_the_formula(name: str) -> None:
    ramp = torch.linspace(0, 1, 7, dtype=torch.float64)[None, :, None, None, None]
    for x in (noise(1, 7), 0.3 * noise(2, 7) + 0.5 * ramp):
        assert score(name, x) == pytest.approx(FORMULAS[name](x[0].numpy()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("name", "side"), [("lively", 32), ("smooth", 16), ("loop", 32)])
def test_large_frames_are_reduced_first(name: str, side: int) -> None:
    x = noise(3, 5, 64, 96)
    small = x[0].numpy().reshape(5, 3, side, 64 // side, side, 96 // side).mean(axis=(3, 5))
    assert score(name, x) == pytest.approx(FORMULAS[name](small), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_those_of_finite_differences(name: str) -> None:
    # A drift beside the noise, so that the end is far from the beginning and the loop has a slope.
    x = (0.3 * noise(4, 5, 4, 4) + torch.linspace(0, 0.6, 5)[None, :, None, None, None]).requires_grad_()
    reward = make_reward(name)
    assert torch.autograd.gradcheck(lambda each: reward.score(each, [""]), (x,), eps=1e-6, atol=1e-7, rtol=1e-4)
    (slope,) = torch.autograd.grad(reward.score(x, [""]).sum(), x)
    assert slope.abs().max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_still_clip_has_finite_slopes(name: str) -> None:
    x = STILL.clone().requires_grad_()
    make_reward(name).score(x, [""]).sum().backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_of_the_clip_alone(name: str) -> None:
    clips = torch.cat([STILL, EVEN, CUT]).float()
    alone = torch.tensor([score(name, each[None]) for each in clips])
    torch.testing.assert_close(make_reward(name).score(clips, [""] * 3), alone, rtol=0, atol=1e-6)


def test_lively_is_of_motion_and_not_of_flicker() -> None:
    assert score("lively", FASTER) > 1.5 * score("lively", EVEN) > 0.01
    assert score("lively", STILL) < 1e-3
    for trick in (FLICKER, TO_AND_FRO, clip(lambda t: torch.full((3, 32, 32), 0.1 * t))):
        assert score("lively", trick) < 1e-3
    grain = (STILL + 0.1 * torch.randn(STILL.shape, generator=torch.Generator().manual_seed(7))).clamp(0, 1)
    assert score("lively", grain) < score("lively", EVEN)


def test_smooth_wants_even_motion() -> None:
    even = score("smooth", EVEN)
    assert even > score("smooth", STILL) == pytest.approx(-1, abs=1e-2)
    for uneven in (JERKY, CUT, TO_AND_FRO, FLICKER):
        assert score("smooth", uneven) < -1.2 < even
    assert score("smooth", clip(lambda t: torch.full((3, 32, 32), 0.1 * t))) > -0.2


def test_loop_wants_the_beginning_again() -> None:
    assert score("loop", ROUND) > -0.2 > -0.9 > score("loop", STILL) > score("loop", EVEN)


def test_steady_sees_lamps_and_colours_that_take_turns() -> None:
    assert score("steady", FLICKER) < 10 * score("steady", EVEN) < 0
    halves = torch.zeros(3, 32, 32)
    halves[:, :, :16] = 0.5
    turns = clip(lambda t: halves.flip(2) if t % 2 else halves)
    colours = clip(lambda t: (torch.tensor([0.2, 0.6, 0.2]) if t % 2 else torch.tensor([0.6, 0.2, 0.2])).view(3, 1, 1)
                   .expand(3, 32, 32))  # fmt: skip
    for trick in (turns, colours):
        level = trick.mean(dim=(2, 3, 4))
        assert level.std() < 1e-6 and score("steady", trick) < -0.1


@pytest.mark.parametrize("name", NAMES)
def test_they_say_how_many_frames_they_need(name: str) -> None:
    reward = make_reward(name)
    assert reward.least_frames == 3 and reward.differentiable
    assert bool(torch.isfinite(reward.score(noise(8, 3).float(), [""])).all())
