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
