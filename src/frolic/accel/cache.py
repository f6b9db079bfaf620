"""Steps of which most is taken over from an earlier one.

B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor


class StepCache:
    """First-block caching (ParaAttention's rule; after TeaCache, arXiv 2411.19108): where the first block changes its
    tokens nearly as it did when all blocks were last computed, the others are taken to do what they did then.

    ``threshold``: by how much of its mean size the first block's change may differ, in every sample of the batch; 0 is
    never. One is for one run of one transformer, whose samples stay in their order: what is kept of one is its own.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.steps = self.reused = 0
        self._before: tuple[Tensor, Tensor] | None = None  # the first block's change, and all that followed it

    def __call__(self, blocks: Sequence[Callable[[Any], Any]], state: Any) -> Any:
        """``blocks`` applied to ``state``, whose ``x`` is [B, L, D]."""
        self.steps += 1
        first = blocks[0](state)
        change: Tensor = first.x - state.x
        if self._before is not None and self._alike(self._before[0], change):
            self.reused += 1
            return replace(first, x=first.x + self._before[1])
        last = first
        for block in blocks[1:]:
            last = block(last)
        self._before = change, last.x - first.x
        return last

    def _alike(self, before: Tensor, change: Tensor) -> bool:
        if before.shape != change.shape or not self.threshold:
            return False
        size = before.abs().mean((1, 2)).clamp_min(1e-12)
        return bool(((change - before).abs().mean((1, 2)) / size < self.threshold).all())
