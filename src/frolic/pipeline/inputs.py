"""Pictures that a request starts from or is led by, as tensors and latents.

H/W height and width in pixels, C latent channels, h/w height and width of latents.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.errors import RequestError
from frolic.io.media import load_image, opaque
from frolic.pipeline.resize import fit, spread
from frolic.request import MAX_SIDE, Request, kept_nothing
from frolic.types import PixelSize

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = Image | Tensor | str | Path


_SAME_SHAPE = 0.02
"""By how much (as a logarithm) two aspect ratios may differ: sizes are whole pixels."""


@dataclass(frozen=True)
class Inputs:
    """What steers a request besides its text: each a path, a PIL picture or a tensor [3, H, W] in [-1, 1].

    ``image``: drawn anew from its noised self, as much as the request's strength says. ``mask`` (with an image): white
    where it is to be drawn anew, black where it stays. ``control``: what a ControlNet is led by, as edges.
    """

    image: Picture | None = None
    mask: Picture | None = None
    control: Picture | None = None

    def read(self) -> Given:
        """The pictures as tensors.

        Raises:
            FileError: a file cannot be read as a picture.
            RequestError: something is not a picture, or there is a mask without an image.
        """
        if self.mask is not None and self.image is None:
            raise RequestError("A mask says which part of an image is drawn anew; give the image too.")
        return Given(*(None if one is None else _tensor(one, name) for name, one in vars(self).items()))


@dataclass(frozen=True)
class Given:
    """The same as float32 tensors on the CPU: ``image`` and ``control`` [1, 3, H, W] in [-1, 1], ``mask`` too."""

    image: Tensor | None = None
    mask: Tensor | None = None
    control: Tensor | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of what was given first."""
        leader = self.image if self.image is not None else self.control
        return None if leader is None else (leader.shape[-2], leader.shape[-1])

    def sized(self, request: Request, most: int) -> Request:
        """``request`` with this size where it says nothing of one, or with its shape at ``most`` pixels if it has more:
        what a model is not made for, it does not draw well.

        Raises:
            RequestError: the picture is larger than any that can be asked for.
        """
        if self.size is None or (request.height, request.width, request.aspect) != (None, None, None):
            return request
        height, width = self.size
        if max(height, width) > MAX_SIDE:
            raise RequestError(f"The image is {width}x{height}; a side has at most {MAX_SIDE} pixels, or give a size.")
        scale = min(1.0, math.sqrt(most / (height * width)))
        return replace(request, height=max(1, round(height * scale)), width=max(1, round(width * scale)))

    def check(self, request: Request) -> None:
        """Refuse what of ``request`` has no picture to act on.

        Raises:
            RequestError: listing all of it.
        """
        problems = []
        if self.image is None and request.strength != 1:
            problems.append("strength says how much of an image is drawn anew; give the image")
        if self.control is None and request.control_scale != 1:
            problems.append("control_scale says how strongly a control picture acts; give one")
        if self.image is not None and self.mask is not None:
            (height, width), (tall, wide) = self.image.shape[-2:], self.mask.shape[-2:]
            if abs(math.log(width * tall / (height * wide))) > _SAME_SHAPE:
                problems.append(f"the mask is {wide}x{tall} and the image {width}x{height}; give both the same shape")
        if problems:
            raise RequestError(f"Change the request: {'; '.join(problems)}.")

    def remarks(self, request: Request) -> list[str]:
        """What should be said of a completed ``request`` with these pictures."""
        said = kept_nothing(request) if self.image is not None and self.mask is None else ""
        return [said] if said else []

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the pixels of each, which a record keeps in place of the picture."""
        return {
            name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
            for name, tensor in vars(self).items()
            if tensor is not None
        }

    def at(self, size: tuple[int, int]) -> Given:
        """Each brought to ``size`` (height, width), filling it: resized and cut about the centre."""
        target = PixelSize(*size)
        given = (
            (None if one is None else fit(one, target, antialias=True).clamp(-1, 1)) for one in vars(self).values()
        )
        return Given(*given)

    def staged(self, asked: tuple[int, int], drawn: tuple[int, int]) -> tuple[Given, Given]:
        """At the size of the picture, and at the one that is drawn, placed so that everything comes back to where it
        was when what was drawn is fitted to the picture."""
        own = self.at(asked)
        target = PixelSize(*drawn)
        return own, Given(*(None if one is None else spread(one, target).clamp(-1, 1) for one in vars(own).values()))

    def around(self, picture: Tensor) -> Tensor:
        """``picture`` [1, 3, H, W], of the same size, with the image where the mask keeps it."""
        mask = self.open_mask()
        return picture if mask is None or self.image is None else mask * picture + (1 - mask) * self.image

    def open_mask(self) -> Tensor | None:
        """[1, 1, H, W]: 1 where the picture is drawn anew, 0 where it stays."""
        return None if self.mask is None else (self.mask.mean(dim=1, keepdim=True) + 1) / 2


@dataclass(frozen=True)
class Anchors:
    """What a run is tied to, in the transformer's scale: ``known`` and ``control`` [1, C, h, w], ``kept`` [1, 1, h, w]
    is 1 where ``known`` stays. Of a clip, ``first`` [1, C, 1, h, w] is its first frame, and ``beside`` [1, C', t, h, w]
    are the channels that say what is known of it."""

    known: Tensor | None = None
    kept: Tensor | None = None
    control: Tensor | None = None
    first: Tensor | None = None
    beside: Tensor | None = None


def anchors(given: Given, encode: Callable[[Tensor], Tensor], stride: int) -> Anchors:
    """``given``, at the size that is drawn, as latents by ``encode`` ([1, 3, H, W] to [1, C, h, w])."""
    known = None if given.image is None else encode(given.image)
    control = None if given.control is None else encode(given.control)
    kept = None
    if (mask := given.open_mask()) is not None:
        assert known is not None
        # A latent that the mask touches anywhere is drawn anew.
        kept = 1 - F.max_pool2d(mask, stride).to(known)
    return Anchors(known, kept, control)


def latents_size(
    latents: Tensor, pictures: int, channels: int, stride: int, step: int, clips: bool = False
) -> tuple[int, int]:
    """Height and width in pixels that given ``latents`` [B, C, h, w], or of ``clips`` [B, C, t, h, w], are for;
    ``step``: sides are its multiples.

    Raises:
        RequestError: they are not starting noise for ``pictures`` of ``channels``.
    """
    shape = tuple(latents.shape)
    fits = (
        len(shape) == (5 if clips else 4)
        and shape[:2] == (pictures, channels)
        and all(shape[2:])
        and all(side * stride % step == 0 for side in shape[-2:])
        and latents.is_floating_point()
    )
    if not fits:
        raise RequestError(
            f"latents are {list(shape)} of {latents.dtype}; give float [{pictures}, {channels}, "
            f"{'frames, ' if clips else ''}height / {stride}, width / {stride}], one for each picture."
        )
    if not bool(torch.isfinite(latents).all()):
        raise RequestError("latents hold values that are not finite; give finite noise.")
    return shape[-2] * stride, shape[-1] * stride


def _tensor(picture: Any, name: str) -> Tensor:
    """[1, 3, H, W] in [-1, 1]."""
    if isinstance(picture, Tensor):
        tensor = picture.detach().cpu().float()
        tensor = tensor[None] if tensor.ndim == 3 else tensor
        fits = tensor.ndim == 4 and tensor.shape[:2] == (1, 3) and tensor.numel() > 0
        if not fits or not bool(torch.isfinite(tensor).all()) or float(tensor.abs().max()) > 1:
            raise RequestError(
                f"{name} is a tensor of {list(picture.shape)}; give [3, height, width] with values from -1 to 1."
            )
        return tensor
    if isinstance(picture, (str, Path)):
        picture = load_image(Path(picture))
    if not hasattr(picture, "convert"):
        raise RequestError(f"{name} is {type(picture).__name__}; give a path, a PIL picture or a tensor.")
    import numpy as np

    array = torch.from_numpy(np.array(opaque(picture)))
    return array.permute(2, 0, 1)[None].float() / 127.5 - 1
