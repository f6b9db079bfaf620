"""Layers as steps that can be computed a few rows at a time.  B batch, C channels, H/W height and width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Local:
    """A layer whose every position depends on few others: the steps one after the other, plus the shortcut.

    Steps are convolutions, ``doubled``, ``unfolded``, ``apart`` and ``folded``, which change the number of rows, and
    functions of one position, so a layer can be computed a few rows at a time. A shortcut has steps too, without
    convolutions; None is no shortcut.
    """

    steps: Sequence[Step]
    shortcut: Sequence[Step] | None

    def __call__(self, x: Tensor) -> Tensor:
        y, skip = x, x
        for step in self.steps:
            y = step(y)
        if self.shortcut is None:
            return y
        for step in self.shortcut:
            skip = step(skip)
        return skip + y if torch.is_grad_enabled() else y.add_(skip)


def silu(x: Tensor) -> Tensor:
    """SiLU of what a convolution just made, in its memory where no gradient needs it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def doubled(x: Tensor) -> Tensor:
    """Every position four times: twice the rows and columns."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def unfolded(x: Tensor) -> Tensor:
    """A quarter of the channels, twice the rows and columns."""
    return F.pixel_shuffle(x, 2)


def apart(x: Tensor) -> Tensor:
    """As ``unfolded``, of channels that lie pixel by pixel: nothing to gather one by one where channels are last."""
    pixels = rearrange(x.movedim(1, -1), "b h w (i j c) -> b (h i) (w j) c", i=2, j=2)
    return pixels.movedim(-1, 1)


def unfolding(conv: nn.Conv2d, repeats: int) -> nn.Conv2d:
    """``conv`` (3x3) for ``apart`` in place of ``unfolded``, and with the shortcut that repeats each channel
    ``repeats`` times (0: there is none) as a part of its middle tap: one layer for two, adding in another order."""
    weight = conv.weight.detach().clone()
    rows = torch.arange(len(weight), device=weight.device)
    if repeats:
        weight[rows, rows // repeats, 1, 1] += 1
    order = rows.unflatten(0, (-1, 4)).T.flatten()
    merged = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, device="meta")
    merged.weight = nn.Parameter(weight[order].contiguous(memory_format=torch.channels_last), requires_grad=False)
    assert conv.bias is not None
    merged.bias = nn.Parameter(conv.bias.detach()[order], requires_grad=False)
    return merged


def folded(x: Tensor) -> Tensor:
    """Four times the channels, half the rows and columns."""
    return F.pixel_unshuffle(x, 2)


@dataclass(frozen=True)
class Doubling:
    """``doubled``, then a 3x3 convolution, in one: of the nine products that make a pixel, some have the same factor,
    and four remain. ``weight`` is ``[C in, C out, 4, 4]``."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Doubling:
        """Sums in float32, rounded once."""
        taps = conv.weight.detach().float().permute(1, 2, 3, 0).flip(1, 2)
        merged = taps.new_zeros(taps.shape[0], 4, 4, taps.shape[3])
        for row in (0, 1):
            for column in (0, 1):
                merged[:, row : row + 3, column : column + 3] += taps
        return cls(merged.to(conv.weight.dtype).permute(0, 3, 1, 2), conv.bias)

    def __call__(self, x: Tensor, cut: int = 0) -> Tensor:
        """``cut``: how many rows of ``x`` at its top and bottom are only looked at."""
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=(1 + 2 * cut, 1))
