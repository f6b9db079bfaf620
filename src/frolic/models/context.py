"""What the blocks of a transformer read of a text.  B batch, N heads, S text tokens, K head width, D width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

Read: TypeAlias = tuple[tuple[Tensor, ...], Tensor]
"""What one block reads of the texts of some samples: its ``kv``, and their ``mask``."""


@dataclass(frozen=True)
class TextContext:
    """All that a transformer's blocks need of the text, computed once a request.

    ``kv`` holds per block what its cross attention reads, as keys and values, each ``[B, N, S, K]``. ``mask`` [B, S]
    says which of them: true where one is read, or what is added to its logits. ``after`` are the samples that follow,
    whose text has another length.
    """

    kv: tuple[tuple[Tensor, ...], ...]
    mask: Tensor
    after: TextContext | None = None

    def __len__(self) -> int:
        """How many samples."""
        return len(self.mask) + (0 if self.after is None else len(self.after))

    def of(self, block: int) -> tuple[Read, ...]:
        """What ``block`` reads: of all samples, or, where their texts differ in length, of each length's."""
        own = (self.kv[block], self.mask)
        return (own,) if self.after is None else (own, *self.after.of(block))

    @staticmethod
    def joined(parts: Sequence[TextContext]) -> TextContext:
        """The samples of all ``parts``, one part after the other."""
        first, *rest = parts
        return replace(first, after=TextContext.joined(rest)) if rest else first

    @staticmethod
    def cat(parts: Sequence[TextContext]) -> TextContext:
        """Stack contexts of equal text length along the batch."""
        blocks = zip(*(part.kv for part in parts), strict=True)
        kv = tuple(tuple(torch.cat(tensors) for tensors in zip(*block, strict=True)) for block in blocks)
        return TextContext(kv, torch.cat([part.mask for part in parts]))

    def rows(self, index: Tensor) -> TextContext:
        """The samples that ``index`` [B'] names, in its order (repeats allowed)."""
        assert self.after is None, "texts of several lengths are selected before they are joined"
        return TextContext(tuple(tuple(tensor[index] for tensor in block) for block in self.kv), self.mask[index])


def samples_of(x: Tensor, reads: Sequence[Read]) -> tuple[Tensor, ...]:
    """The samples of ``x`` [B, ...] that each of ``reads`` is for."""
    return (x,) if len(reads) == 1 else x.split([len(mask) for _, mask in reads])
