"""Blocks whose inner activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputed:
    """What a block's class gains."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        inner = super().forward  # type: ignore[misc]
        if not torch.is_grad_enabled():
            return inner(*arguments, **named)
        return checkpoint(inner, *arguments, use_reentrant=False, **named)


@cache
def _recomputed(kind: Any) -> Any:
    return type(f"Recomputed{kind.__name__}", (Recomputed, kind), {"__doc__": kind.__doc__})


def recompute(blocks: nn.ModuleList) -> None:
    """Keep only what goes into each block: memory for one block at a time, for about a third more work."""
    for block in blocks:
        if isinstance(block, Recomputed):
            continue
        kind: Any = type(block)
        block.__class__ = _recomputed(kind)
