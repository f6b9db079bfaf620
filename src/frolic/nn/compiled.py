"""Blocks of which there are many, compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class SharedCompilation(nn.Module):
    """A block whose ``change`` computes without knowing which of all blocks it is."""

    change: Callable[..., Tensor]

    def compile(self, *args: Any, **options: Any) -> None:
        """As ``nn.Module.compile``, of what no block's number is part of: one compilation serves all blocks, of which
        torch would otherwise compile the first eight only."""
        self.change = torch.compile(self.change, *args, **options)
