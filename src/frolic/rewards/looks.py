"""Rewards of pictures that are formulas: no weights, no prompt.

N pictures, H/W their sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from frolic.rewards.base import Base, per_frame


class Vivid(Base):
    """Colourfulness: how far the two opponent colours spread, plus 0.3 of how far their mean is from grey.

    Hasler and Süsstrunk, "Measuring colourfulness in natural images" (2003), the measure M3, of values in [0, 1].
    """

    name = "vivid"

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return per_frame(_colourfulness, frames_BT3HW)


class Contrast(Base):
    """The deviation of luminance within a picture."""

    name = "contrast"

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return per_frame(lambda x: _deviation(_luminance(x).flatten(1)), frames_BT3HW)


class Sharp(Base):
    """How steep edges are: the mean size of the luminance's gradient, over the mean of its square root squared, so that
    few steep edges count for more than many weak ones, and not how many edges there are."""

    name = "sharp"

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return per_frame(_sharpness, frames_BT3HW)


class Bright(Base):
    """Mean luminance."""

    name = "bright"

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return per_frame(lambda x: _luminance(x).flatten(1).mean(dim=1), frames_BT3HW)


def _colourfulness(x_N3HW: Tensor) -> Tensor:
    r, g, b = x_N3HW.float().flatten(2).unbind(dim=1)
    opponent = (r - g, (r + g) / 2 - b)
    spread = sum(part.var(dim=1, correction=0) for part in opponent)
    mean = sum(part.mean(dim=1).square() for part in opponent)
    assert isinstance(spread, Tensor) and isinstance(mean, Tensor)
    # A grey picture has no slope of its own: without the small number the root's would be infinite.
    return (spread + 1e-8).sqrt() + 0.3 * (mean + 1e-8).sqrt()


def _luminance(x_N3HW: Tensor) -> Tensor:
    """[N, H, W], by ITU-R BT.709."""
    weights = torch.tensor((0.2126, 0.7152, 0.0722), device=x_N3HW.device)
    return (x_N3HW.float() * weights[:, None, None]).sum(dim=1)


def _deviation(x_NP: Tensor) -> Tensor:
    return (x_NP.var(dim=1, correction=0) + 1e-8).sqrt()


def _sharpness(x_N3HW: Tensor) -> Tensor:
    y = _luminance(x_N3HW)
    across, down = y.diff(dim=2)[:, :-1], y.diff(dim=1)[:, :, :-1]
    steep = (across.square() + down.square() + 1e-6).sqrt().flatten(1)
    return steep.square().mean(dim=1) / steep.mean(dim=1)
