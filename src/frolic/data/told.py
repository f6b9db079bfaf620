"""Latents of scenes and their captions, with what it takes to tell right captions from wrong ones.

V pictures, K sentences, N prompts, M mistaken sentences, B batch, S tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from frolic.data.cached import CaptionedLatents, TextSet
from frolic.data.mistaken import mistaken
from frolic.data.prompts import Prompts

_EACH = 2  # mistaken forms of a sentence


@dataclass(frozen=True)
class ToldApart:
    """Batches of ``source``, and of each sample its caption's place among all sentences (``sentence`` [B]), that of
    a mistaken form of it among ``wrongs`` (``wrong`` [B], -1 where there is none), and the ``meaning`` [B] of its
    picture: captions of pictures of the same meaning are true of both.

    ``meanings`` [V] are of the pictures; ``wrong_of`` [K, 2] of the sentences.
    """

    source: CaptionedLatents
    meanings: Tensor
    wrongs: TextSet
    wrong_of: Tensor

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        bucket, row, caption = self.source.pick(size, generator)
        picture = bucket.first + row
        sentence = self.source.captions.places(picture, caption)
        wrong = _one_form(self.wrong_of, sentence, generator)
        told = {"sentence": sentence, "wrong": wrong, "meaning": self.meanings[picture]}
        return {**self.source.shown(bucket, row, caption), **told}

    @property
    def meaning_of(self) -> Tensor:
        """[K]: the meaning of a picture that each sentence is true of."""
        captions = self.source.captions
        found = torch.zeros(len(captions.texts.length), dtype=self.meanings.dtype)
        found[captions.order] = self.meanings.repeat_interleave(captions.count)
        return found


@dataclass(frozen=True)
class ToldPrompts:
    """Batches of ``source``, and what ``ToldApart`` says of each sample: ``sentence`` [B], which is its number among
    the prompts, and ``wrong`` [B], by ``wrong_of`` [N, 2]."""

    source: Prompts
    wrong_of: Tensor

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        found = self.source.batch(step, size, generator)
        wrong = _one_form(self.wrong_of, found["prompt"], generator)
        return {**found, "sentence": found["prompt"], "wrong": wrong}


def _one_form(wrong_of: Tensor, sentence: Tensor, generator: torch.Generator) -> Tensor:
    """[B]: one of the mistaken forms of each, -1 where it has none."""
    return wrong_of[sentence, torch.randint(_EACH, (len(sentence),), generator=generator)]


def mistakes(sentences: Sequence[str]) -> tuple[list[str], Tensor]:
    """Mistaken forms of ``sentences``, and [K, 2] which of them are of which sentence; -1 for none."""
    made = []
    for sentence in sentences:
        rng = Random(sentence)
        made.append([mistaken(sentence, rng) for _ in range(_EACH)])
    different = list(dict.fromkeys(text for each in made for text in each if text))
    place = {text: number for number, text in enumerate(different)}
    return different, torch.tensor([[place[text] if text else -1 for text in each] for each in made])


def embedded(texts: TextSet, tokens: int, encode: Callable[[Tensor, Tensor], Tensor], batch: int = 512) -> Tensor:
    """[K, D]: what ``encode`` makes of the states [B, S, E] and the mask [B, S] of all ``texts``."""
    parts = []
    for rows in torch.arange(len(texts.length)).split(batch):
        states, mask = texts.rows(rows, tokens)
        parts.append(encode(states.float(), mask))
    return torch.cat(parts)
