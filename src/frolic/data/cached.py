"""Latents and text, computed once and drawn from many times.

V variants (pictures kept), C channels, h/w latent sides, K sentences, S tokens, E text width, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frolic.data.compose import PALETTE, palette_tensor, place, render
from frolic.data.starter.concepts import Concept
from frolic.data.starter.texts import PLAIN, with_background


@dataclass(frozen=True)
class Variants:
    """What is kept of each concept: ``plain`` pictures on the unmentioned background and ``coloured`` on each other
    one; the sprite's side is ``scale`` of the picture's, its centre within ``shift`` of the middle."""

    plain: int = 8
    coloured: int = 1
    scale: tuple[float, float] = (0.84, 0.94)
    shift: float = 0.03
    seed: int = 1


@dataclass(frozen=True)
class LatentSet:
    """``latents`` [V, C, h, w] in half precision, ``concept`` [V] and ``colour`` [V] (indices)."""

    latents: Tensor
    concept: Tensor
    colour: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {"latents": self.latents, "concept": self.concept, "colour": self.colour}


def encode_variants(
    sprites: Tensor, side: int, variants: Variants, encode: Callable[[Tensor], Tensor], batch: int = 64
) -> LatentSet:
    """Render every variant and ``encode`` it ([B, 3, P, P] to [B, C, h, w]), in a fixed order."""
    plain = list(PALETTE).index(PLAIN)
    each = [plain] * variants.plain + [i for i in range(len(PALETTE)) if i != plain] * variants.coloured
    colour = torch.tensor(each).repeat(len(sprites))
    concept = torch.arange(len(sprites)).repeat_interleave(len(each))
    generator = torch.Generator().manual_seed(variants.seed)
    colours = palette_tensor()
    parts = []
    for who, on in zip(concept.split(batch), colour.split(batch), strict=True):
        layout = place(who, colours[on], generator, scale=variants.scale, shift=variants.shift)
        parts.append(encode(render(sprites, layout, side)).half())
    return LatentSet(torch.cat(parts), concept, colour)


@dataclass(frozen=True)
class TextSet:
    """Encoded sentences, packed without padding: sentence k is rows ``start[k] : start[k] + length[k]`` of ``flat``
    [tokens, E]."""

    flat: Tensor
    start: Tensor
    length: Tensor

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
    flats, lengths = [], []
    for first in range(0, len(sentences), batch):
        states, mask = encode(sentences[first : first + batch])
        flats.append(states[mask.bool()].to(torch.bfloat16))
        lengths.append(mask.sum(dim=1))
    length = torch.cat(lengths).long()
    return TextSet(torch.cat(flats), length.cumsum(0) - length, length)


@dataclass(frozen=True)
class CaptionedLatents:
    """``{"latents": [B, C, h, w], "text": [B, S, E], "mask": [B, S]}``: a concept by its weight, one of its kept
    pictures (``plain_share`` of them on the unmentioned background), one of its captions.

    ``texts`` holds caption i on colour j as sentence ``i * len(PALETTE) + j``; the captions of concept n are
    ``first[n] : first[n] + count[n]``.
    """

    latents: LatentSet
    texts: TextSet
    first: Tensor
    count: Tensor
    weight: Tensor
    plain_share: float
    tokens: int
    scaling_factor: float

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        concept = torch.multinomial(self.weight, size, replacement=True, generator=generator)
        each = len(self.latents.concept) // len(self.weight)
        plain = self.latents.colour[:each] == list(PALETTE).index(PLAIN)
        share = torch.where(plain, self.plain_share / plain.sum(), (1 - self.plain_share) / (~plain).sum())
        row = concept * each + torch.multinomial(share, size, replacement=True, generator=generator)
        caption = self.first[concept] + (torch.rand(size, generator=generator) * self.count[concept]).long()
        text, mask = self.texts.rows(caption * len(PALETTE) + self.latents.colour[row], self.tokens)
        return {"latents": self.latents.latents[row].float() * self.scaling_factor, "text": text.float(), "mask": mask}


def captioned(
    concepts: Sequence[Concept],
    latents: LatentSet,
    encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    *,
    everyday_weight: float,
    plain_share: float,
    tokens: int,
    scaling_factor: float,
) -> CaptionedLatents:
    """Encode the captions of ``concepts`` on every background and join them to the latents."""
    sentences = [with_background(c, colour) for item in concepts for c in item.captions for colour in PALETTE]
    count = torch.tensor([len(item.captions) for item in concepts])
    return CaptionedLatents(
        latents=latents,
        texts=encode_sentences([s.lower() for s in sentences], encode),
        first=count.cumsum(0) - count,
        count=count,
        weight=torch.tensor([everyday_weight if item.everyday else 1.0 for item in concepts]),
        plain_share=plain_share,
        tokens=tokens,
        scaling_factor=scaling_factor,
    )
