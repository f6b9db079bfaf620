"""Exponentially averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn


class Ema:
    """Averaged copies of modules, in eval mode.

    The decay rises as ``(1 + step) / (10 + step)`` until it reaches ``decay``, so that early averages are not dominated
    by the random start.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.modules = {name: copy.deepcopy(module).eval().requires_grad_(False) for name, module in modules.items()}
        self._pairs = [
            (averaged, module)
            for name, copied in self.modules.items()
            for averaged, module in zip(copied.parameters(), modules[name].parameters(), strict=True)
        ]
        self._buffers = [
            (kept, current)
            for name, copied in self.modules.items()
            for kept, current in zip(copied.buffers(), modules[name].buffers(), strict=True)
        ]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update ``step`` (from 1)."""
        if self._pairs:
            averaged, current = (list(side) for side in zip(*self._pairs, strict=True))
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(averaged, [param.detach() for param in current], weight)
        for kept, now in self._buffers:
            kept.copy_(now)

    def restart(self, modules: Mapping[str, nn.Module]) -> None:
        """Begin again from the weights of ``modules``."""
        for name, copied in self.modules.items():
            copied.load_state_dict(modules[name].state_dict())
