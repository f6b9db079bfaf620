"""Latents and text, computed once and drawn from many times.

V pictures, C channels, h/w latent sides, K sentences, S tokens, E text width, B batch, H/W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextSet:
    """Encoded sentences, packed without padding: sentence k is rows ``start[k] : start[k] + length[k]`` of ``flat``
    [tokens, E]."""

    flat: Tensor
    start: Tensor
    length: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {"flat": self.flat, "start": self.start, "length": self.length}

    def rows(self, index: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """``[B, S, E]`` and its mask ``[B, S]`` for the sentences ``index`` [B], padded or cut to ``tokens``."""
        position = torch.arange(tokens)
        mask = position < self.length[index, None]
        where = (self.start[index, None] + position).clamp_max(len(self.flat) - 1)
        return self.flat[where] * mask[..., None].to(self.flat.dtype), mask


def encode_sentences(
    sentences: Sequence[str], encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]], batch: int = 256
) -> TextSet:
    """``encode`` gives states [B, S, E] and a mask [B, S] for a batch of sentences."""
    # Sentences of like length together waste little on padding.
    order = sorted(range(len(sentences)), key=lambda k: (len(sentences[k]), k))
    flats: list[Tensor] = []
    length = torch.zeros(len(sentences), dtype=torch.long)
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        states, mask = encode([sentences[k] for k in rows])
        flats.append(states[mask.bool()].to(torch.bfloat16))
        length[rows] = mask.sum(dim=1).long()
    start = torch.zeros_like(length)
    ordered = length[order]
    start[order] = ordered.cumsum(0) - ordered
    return TextSet(torch.cat(flats), start, length)


@dataclass(frozen=True)
class Captions:
    """Which sentences are true of which picture: the captions of picture n are ``order[first[n] : first[n] +
    count[n]]``, by their place in ``texts``. Longer ones than ``tokens`` are cut."""

    texts: TextSet
    order: Tensor
    first: Tensor
    count: Tensor
    tokens: int

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]], sentences: Sequence[str], texts: TextSet, tokens: int) -> Captions:
        """``captions`` of each picture, all of them among ``sentences``, which ``texts`` are."""
        place_of = {text: number for number, text in enumerate(sentences)}
        count = torch.tensor([len(each) for each in captions])
        order = torch.tensor([place_of[text] for each in captions for text in each])
        return cls(texts, order, count.cumsum(0) - count, count, tokens)

    def any(self, picture_B: Tensor, generator: torch.Generator) -> Tensor:
        """[B]: for each picture one of its captions, by its number among them."""
        return (torch.rand(len(picture_B), generator=generator) * self.count[picture_B]).long()

    def places(self, picture_B: Tensor, caption_B: Tensor) -> Tensor:
        """[B]: which of ``texts`` they are."""
        return self.order[self.first[picture_B] + caption_B]

    def rows(self, picture_B: Tensor, caption_B: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, S, E]`` and its mask ``[B, S]``."""
        return self.texts.rows(self.places(picture_B, caption_B), self.tokens)


@dataclass(frozen=True)
class Bucket:
    """Pictures of one shape, ``latents`` [V, C, h, w] in half precision; the first is picture number ``first`` of all.
    ``share`` of the batches are of this shape."""

    latents: Tensor
    first: int
    share: float


@dataclass(frozen=True)
class CaptionedLatents:
    """``{"latents": [B, C, h, w], "text": [B, S, E], "mask": [B, S]}``: random pictures of one shape, each with one of
    its captions."""

    buckets: Sequence[Bucket]
    captions: Captions
    scaling_factor: float

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        return self.shown(*self.pick(size, generator))

    def pick(self, size: int, generator: torch.Generator) -> tuple[Bucket, Tensor, Tensor]:
        """A bucket, rows [B] of it, and of each of those pictures one of its captions, by its number among them."""
        shares = torch.tensor([bucket.share for bucket in self.buckets])
        bucket = self.buckets[int(torch.multinomial(shares, 1, generator=generator))]
        row = torch.randint(len(bucket.latents), (size,), generator=generator)
        return bucket, row, self.captions.any(bucket.first + row, generator)

    def shown(self, bucket: Bucket, row_B: Tensor, caption_B: Tensor) -> dict[str, Tensor]:
        """The batch of what ``pick`` gave."""
        text, mask = self.captions.rows(bucket.first + row_B, caption_B)
        return {"latents": bucket.latents[row_B].float() * self.scaling_factor, "text": text.float(), "mask": mask}
