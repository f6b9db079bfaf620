"""The values that flow from a prompt to a picture.

Shape legend, used in every name that carries its shape:
B batch, C channels, T frames, H/W height and width, L tokens, S text tokens, D width, N heads, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor

Denoise: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``(x_t [B, ...], sigma [] or [B]) -> x0 estimate [B, ...]``: all a sampler knows of a model."""


Compat: TypeAlias = Literal["diffusers", "native"]
"""Whose reading of a published model to follow where diffusers and its authors differ."""


@dataclass(frozen=True)
class PixelSize:
    """Height and width of a picture in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    def rounded(self, stride: int) -> PixelSize:
        """The nearest size whose sides are positive multiples of ``stride``."""

        def near(side: int) -> int:
            return max(stride, (side + stride // 2) // stride * stride)

        return PixelSize(near(self.height), near(self.width))


@dataclass(frozen=True)
class Conditioning:
    """Encoded text: ``embeds`` [B, S, E], ``mask`` [B, S] (True where a token is real)."""

    embeds: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        assert self.embeds.ndim == 3 and self.mask.shape == self.embeds.shape[:2]


@dataclass(frozen=True)
class Perturb:
    """Perturbed-attention guidance: in the blocks ``layers``, the last ``rows`` samples of the batch attend each token
    to itself only. Ahn et al. 2024, arXiv 2403.17377."""

    layers: frozenset[int]
    rows: int


Through: TypeAlias = Callable[[Sequence[Callable[[Any], Any]], Any], Any]
"""``(blocks, state before the first) -> state after the last``: how a transformer's blocks are gone through."""


@dataclass(frozen=True)
class Latents:
    """``tensor`` [B, C, H, W] in the transformer's scale (the autoencoder's output times its scaling factor)."""

    tensor: Tensor


@dataclass(frozen=True)
class Pixels:
    """``tensor`` [B, 3, H, W] in [-1, 1]."""

    tensor: Tensor
