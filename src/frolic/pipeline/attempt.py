"""Work that may run out of memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from frolic.errors import is_out_of_memory


def attempt(work: Callable[[], Tensor], device: torch.device) -> Tensor | None:
    """What ``work`` gives, or None where it ran out of memory."""
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Here the error is gone, and with it the tensors of the frames that it held.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None
