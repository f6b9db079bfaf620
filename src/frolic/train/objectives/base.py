"""What the trainer asks of a task: batches and a loss over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
"""Named tensors that all have the samples along their first dimension."""


class Source(Protocol):
    """Where batches come from."""

    def batch(self, step: int, size: int, generator: torch.Generator) -> Batch:
        """``size`` samples, as a function of ``step`` and ``generator`` alone.

        The generator is on the CPU and seeded from the run's seed and the step, so a resumed run meets the same data.
        May be called on another thread (``trainer.prefetch``), one call at a time, in the order of the steps.
        """
        ...


class Objective(Protocol):
    """What is trained, and how wrong it is."""

    def modules(self) -> Mapping[str, nn.Module]:
        """What is trained, saved and averaged, by names without dots. Frozen helpers are not listed here."""
        ...

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over ``batch`` (a scalar) and scalars worth recording.

        ``batch`` is on the modules' device; ``generator`` is on the CPU and a function of the run's seed, the step and
        the pass within it, so all randomness is drawn from it on the CPU and then moved. Runs under autocast.
        """
        ...

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        """Pictures [N, 3, H, W] in [-1, 1] made with ``modules`` (averaged weights, eval mode), or None.

        Always of the same inputs and seeds, so that previews of one run can be compared.
        """
        ...
