"""Rewards of pictures that are formulas: against plain numpy, their slopes, and what they make of easy tricks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from frolic.rewards import Reward, make_reward
from frolic.rewards.preprocess import gaussian

NAMES = ("vivid", "contrast", "sharp", "bright")


def picture(seed: int, height: int = 12, width: int = 10, frames: int = 1) -> Tensor:
    """[1, T, 3, H, W] in float64, away from the borders of what a value can be."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 + 0.8 * torch.rand(1, frames, 3, height, width, generator=generator, dtype=torch.float64)


def score(name: str, x: Tensor) -> Tensor:
    return make_reward(name).score(x, [""] * len(x))


def grey(y: Tensor) -> Tensor:
    """[H, W] as [1, 1, 3, H, W]."""
    return y.expand(1, 1, 3, *y.shape)


def luminance(x: np.ndarray) -> np.ndarray:
    return 0.2126 * x[0] + 0.7152 * x[1] + 0.0722 * x[2]


def vivid(x: np.ndarray) -> float:
    rg, yb = x[0] - x[1], 0.5 * (x[0] + x[1]) - x[2]
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def sharp(x: np.ndarray) -> float:
    y = np.pad(luminance(x), 1, mode="edge")
    height, width = y.shape[0] - 2, y.shape[1] - 2
    gx, gy = np.zeros((height, width)), np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            part = y[i : i + 3, j : j + 3]
            gx[i, j] = ((part[:, 2] - part[:, 0]) * (1, 2, 1)).sum() / 8
            gy[i, j] = ((part[2] - part[0]) * (1, 2, 1)).sum() / 8
    steep = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            near = np.s_[max(0, i - 3) : i + 4, max(0, j - 3) : j + 4]
            tensor = [[(a[near] * b[near]).mean() for a in (gx, gy)] for b in (gx, gy)]
            low, high = np.linalg.eigvalsh(np.array(tensor))
            steep[i, j] = (high - low) / (high + low) ** 0.5
    return float((steep**2).mean() / (steep.mean() + 1e-3))


FORMULAS: dict[str, Callable[[np.ndarray], float]] = {
    "vivid": vivid,
    "contrast": lambda x: float(luminance(x).std()),
    "sharp": sharp,
    "bright": lambda x: float(luminance(x).mean()),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_formula(name: str) -> None:
    x = picture(1, frames=2)
    expected = np.mean([FORMULAS[name](frame.numpy()) for frame in x[0]])
    assert score(name, x).item() == pytest.approx(expected, rel=2e-4)
    assert score(name, x.float()).dtype == torch.float32


@pytest.mark.parametrize("name", ["vivid", "contrast"])
def test_what_is_large_is_reduced_first(name: str) -> None:
    x = picture(2, 128, 192)
    small = x[0, 0].numpy().reshape(3, 64, 2, 64, 3).mean(axis=(2, 4))
    assert score(name, x).item() == pytest.approx(FORMULAS[name](small), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_those_of_finite_differences(name: str) -> None:
    x = picture(3, 6, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: score(name, each), (x,), eps=1e-6, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_picture_of_one_grey_has_finite_slopes(name: str, value: float) -> None:
    x = torch.full((1, 1, 3, 16, 16), value, requires_grad=True)
    score(name, x).sum().backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_of_the_clip_alone(name: str) -> None:
    clips = torch.cat([picture(seed, frames=3) for seed in range(3)]).float()
    alone = torch.cat([score(name, clip[None]) for clip in clips])
    torch.testing.assert_close(score(name, clips), alone, rtol=0, atol=1e-6)


def test_more_of_it_is_more() -> None:
    x = picture(4, 32, 32).float()
    mean = x.mean(dim=2, keepdim=True)
    assert score("vivid", mean + 0.5 * (x - mean)) < score("vivid", x)
    level = x.mean(dim=(3, 4), keepdim=True)
    assert score("contrast", level + 0.5 * (x - level)) < score("contrast", x)
    assert score("bright", 0.5 * x) < score("bright", x)


def disc(side: int = 96) -> Tensor:
    place = torch.arange(side) - side / 2
    return grey(0.3 + 0.4 * (place**2 + place[:, None] ** 2 < (side / 4) ** 2))


def blurred(x: Tensor, deviation: float) -> Tensor:
    return gaussian(x[0].contiguous(), deviation)[None]


def grain(side: int = 96) -> Tensor:
    return grey(torch.randn(side, side, generator=torch.Generator().manual_seed(5)))


def test_sharp_is_of_edges_and_not_of_grain() -> None:
    crisp, soft, softer = disc(), blurred(disc(), 1.5), blurred(disc(), 3.0)
    assert score("sharp", crisp) > 1.5 * score("sharp", soft) > 2 * score("sharp", softer)
    for amount in (0.03, 0.1, 0.2):
        assert score("sharp", (soft + amount * grain()).clamp(0, 1)) < score("sharp", soft), amount
        assert score("sharp", (crisp + amount * grain()).clamp(0, 1)) < score("sharp", crisp), amount
    # Black and white grain alone, against one edge between black and white; and what upsampling leaves.
    halves = grey((torch.arange(96) < 48).float().expand(96, 96))
    board = grey(((torch.arange(96) + torch.arange(96)[:, None]) % 2).float())
    assert score("sharp", (grain() > 0).float()) < 0.6 * score("sharp", halves)
    assert score("sharp", board) < 0.1 * score("sharp", halves)


def test_sharp_counts_how_steep_and_not_how_many() -> None:
    one = torch.zeros(96, 96)
    one[:, 48:] = 1
    three = one.clone()
    three[:, :16] = three[:, 80:] = 0.5
    assert score("sharp", grey(three)) < score("sharp", grey(one))


def test_grains_are_neither_colours_nor_contrast() -> None:
    noise = torch.rand(1, 1, 3, 256, 256, generator=torch.Generator().manual_seed(6))
    patches = torch.nn.functional.interpolate(noise[0, :, :, :8, :8], scale_factor=32)[None]
    for name in ("vivid", "contrast"):
        assert score(name, noise) < 0.35 * score(name, patches), name


@pytest.mark.parametrize("name", NAMES)
def test_they_are_rewards(name: str) -> None:
    reward = make_reward(name)
    assert isinstance(reward, Reward) and reward.name == name and reward.differentiable
    assert reward.least_frames == 1 and reward.marks == {} and not getattr(reward, "reads_prompt", True)
