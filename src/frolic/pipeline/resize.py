"""From the size a model draws well to the size that was asked for."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from frolic.types import PixelSize


def fit(pixels_BCHW: Tensor, size: PixelSize, *, antialias: bool = False) -> Tensor:
    """Scale until ``size`` is covered, then cut out its middle: [B, C, ``size.height``, ``size.width``].

    Bilinear; without antialiasing it is what diffusers' ``resize_and_crop_tensor`` does after drawing at a bin's size.
    """
    height, width = pixels_BCHW.shape[2:]
    if (height, width) == (size.height, size.width):
        return pixels_BCHW
    ratio = max(size.height / height, size.width / width)
    # int() may land one pixel short of the very side that gave the ratio.
    scaled = (max(int(height * ratio), size.height), max(int(width * ratio), size.width))
    pixels = F.interpolate(pixels_BCHW, size=scaled, mode="bilinear", align_corners=False, antialias=antialias)
    top, left = (scaled[0] - size.height) // 2, (scaled[1] - size.width) // 2
    return pixels[:, :, top : top + size.height, left : left + size.width]


def spread(pixels_BCHW: Tensor, size: PixelSize) -> Tensor:
    """What ``fit`` brings back to the place it had: scaled to just lie within ``size``, its border repeated."""
    height, width = pixels_BCHW.shape[2:]
    ratio = min(size.height / height, size.width / width)
    scaled = (max(1, min(round(height * ratio), size.height)), max(1, min(round(width * ratio), size.width)))
    if scaled != (height, width):
        pixels_BCHW = F.interpolate(pixels_BCHW, size=scaled, mode="bilinear", align_corners=False, antialias=True)
    rows, columns = size.height - scaled[0], size.width - scaled[1]
    return F.pad(pixels_BCHW, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), mode="replicate")
