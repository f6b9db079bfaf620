"""Starting noise that belongs to one picture: it depends on its seed, never on its batch mates or on the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

MAX_SEED = 2**63 - 1


def picture_seed(seed: int, index: int) -> int:
    """Seed of picture ``index`` of a request: seeds count up, so ``-s 9`` is the third picture of ``-s 7 -N 3``."""
    return (seed + index) % (MAX_SEED + 1)


def sample_noise(shape: Sequence[int], seed: int, indices: Iterable[int], draw: int = 0) -> Tensor:
    """Standard normal ``[len(indices), *shape]``, float32 on the CPU. ``draw``: which of those that a picture's
    generator gives one after the other. Drawing starts from number 0; a sampler that adds noise again takes later ones.

    A seed below 2**32 gives what ``torch.randn(shape, generator=torch.Generator().manual_seed(seed))`` gives.
    """
    generator = torch.Generator()
    rows = []
    for index in indices:
        generator.manual_seed(_folded(picture_seed(seed, index)))
        *_, last = (torch.randn(*shape, generator=generator) for _ in range(draw + 1))
        rows.append(last)
    return torch.stack(rows)


def _folded(seed: int) -> int:
    """``seed`` in 32 bits. torch's CPU generator drops the upper half, which would make seeds 2**32 apart equal."""
    high, low = seed >> 32, seed & 0xFFFFFFFF
    if not high:
        return low
    mixed = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 31)) & 0xFFFFFFFF
