"""Rewards of pictures that are formulas: no weights, no prompt.

N pictures, H/W their sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.rewards.base import Base, per_frame, wide

_TINY = 1e-8
"""Under roots: a grey picture has no slope of its own, and without it the root's would be infinite."""


class Vivid(Base):
    """Colourfulness: how far the two opponent colours spread, plus 0.3 of how far their mean is from grey.

    Hasler and Süsstrunk, "Measuring colourfulness in natural images" (2003), the measure M3, of values in [0, 1]. Of
    pictures reduced to 64 pixels a side: the paper's measure gives random coloured noise, which is easier to make than
    a colourful picture, half of what is the most.
    """

    name = "vivid"
    reads_prompt = False

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return per_frame(_colourfulness, frames_BT3HW)


class Contrast(Base):
    """The deviation of luminance within a picture, reduced to 64 pixels a side: black and white grains are grey from
    where they are looked at, and would be the most there is."""

    name = "contrast"
    reads_prompt = False

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return per_frame(lambda x: _deviation(luminance(reduced(x)).flatten(1)), frames_BT3HW)


class Sharp(Base):
    """How steep edges are: the mean of the squared steepness of luminance, over the mean steepness, so that few steep
    edges count for more than many weak ones, and not how many edges there are.

    Squared, steepness is (a - b)^2 / (a + b), of the eigenvalues a and b of the structure tensor (Förstner and Gülch
    1987) of 7x7 pixels. A gradient alone is as steep in grain as at an edge, and grain is the easy way to a high
    number; but grain points everywhere, so its eigenvalues are alike. Gradients are Sobel's, which do not see the
    checkerboards that upsampling leaves. What still raises it beyond good taste is hatching: weigh others against it.
    """

    name = "sharp"
    reads_prompt = False

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return per_frame(_sharpness, frames_BT3HW)


class Bright(Base):
    """Mean luminance."""

    name = "bright"
    reads_prompt = False

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return per_frame(lambda x: luminance(x).flatten(1).mean(dim=1), frames_BT3HW)


def luminance(x_N3HW: Tensor) -> Tensor:
    """[N, H, W], by ITU-R BT.709."""
    x = wide(x_N3HW)
    weights = torch.tensor((0.2126, 0.7152, 0.0722), device=x.device, dtype=x.dtype)
    return (x * weights[:, None, None]).sum(dim=1)


def reduced(x_N3HW: Tensor, side: int = 64) -> Tensor:
    """Averaged over areas to at most ``side`` pixels each way."""
    x = wide(x_N3HW)
    height, width = (min(side, each) for each in x.shape[-2:])
    return x if (height, width) == x.shape[-2:] else F.interpolate(x, size=(height, width), mode="area")


def _colourfulness(x_N3HW: Tensor) -> Tensor:
    r, g, b = reduced(x_N3HW).flatten(2).unbind(dim=1)
    opponent = (r - g, (r + g) / 2 - b)
    spread = sum(part.var(dim=1, correction=0) for part in opponent)
    mean = sum(part.mean(dim=1).square() for part in opponent)
    assert isinstance(spread, Tensor) and isinstance(mean, Tensor)
    return (spread + _TINY).sqrt() + 0.3 * (mean + _TINY).sqrt()


def _deviation(x_NP: Tensor) -> Tensor:
    return (x_NP.var(dim=1, correction=0) + _TINY).sqrt()


def _sharpness(x_N3HW: Tensor) -> Tensor:
    y = F.pad(luminance(x_N3HW)[:, None], (1, 1, 1, 1), mode="replicate")
    row = torch.tensor((1.0, 2.0, 1.0), device=y.device, dtype=y.dtype) / 4
    sobel = row[:, None] * torch.tensor((-0.5, 0.0, 0.5), device=y.device, dtype=y.dtype)
    across, down = F.conv2d(y, torch.stack((sobel, sobel.T))[:, None]).unbind(dim=1)
    products = torch.stack((across.square(), down.square(), across * down), dim=1)
    xx, yy, xy = F.avg_pool2d(products, 7, stride=1, padding=3, count_include_pad=False).unbind(dim=1)
    # Of [[xx, xy], [xy, yy]]: the difference of the eigenvalues, squared, and their sum.
    apart, total = (xx - yy).square() + 4 * xy.square(), xx + yy
    steep = ((apart + 1e-14).sqrt() / (total + 1e-6).sqrt()).flatten(1)
    return steep.square().mean(dim=1) / (steep.mean(dim=1) + 1e-3)
