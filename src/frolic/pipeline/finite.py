"""Numbers that went wrong stop a drawing where they did."""

from __future__ import annotations

import torch
from torch import Tensor

from frolic.errors import NumericsError


def require_finite(tensor: Tensor, stage: str) -> None:
    """Raise ``NumericsError`` naming ``stage``, which begins a sentence, if ``tensor`` is not all finite."""
    # A sum is finite only if all its parts are, and takes a tenth of the time of looking at each; it can overflow.
    if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise NumericsError(f"{stage} gave values that are not finite; try --dtype float32.")


def require_varied(pixels: Tensor, what: str) -> None:
    """Raise ``NumericsError`` if ``pixels`` [1, 3, ..., H, W], cut to [-1, 1], are all of one colour; ``what`` the
    decoder gave."""
    # Some pixels differ nearly always; to look at all takes a tenth of the time of decoding.
    if _is_flat(pixels[..., ::16, ::16]) and _is_flat(pixels):
        raise NumericsError(f"The decoder gave {what} of one flat colour; try --dtype float32 or another model.")


def _is_flat(pixels: Tensor) -> bool:
    shown = pixels.clamp(-1, 1).flatten(2)
    return torch.equal(shown, shown[..., :1].expand_as(shown))
