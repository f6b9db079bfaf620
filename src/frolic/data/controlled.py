"""Pictures, the control pictures that lead to them, and captions, as latents and text that batches are drawn from.

N pictures, C latent channels, h/w latent sides, S tokens, E text width, B batch, P side of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from frolic.data.cached import Captions, TextSet
from frolic.data.compose import PALETTE, PLAIN, Layout, palette_tensor, place, render
from frolic.data.starter.concepts import Concept
from frolic.data.starter.texts import with_background


class Pictures(Protocol):
    """Pictures by their number. ``groups`` [N]: pictures of one group show the same thing. ``mark`` is a fingerprint of
    everything that the pictures are made from."""

    @property
    def groups(self) -> Tensor: ...
    @property
    def captions(self) -> Sequence[Sequence[str]]: ...
    @property
    def mark(self) -> str: ...
    def pixels(self, rows_B: Tensor) -> Tensor: ...
    def controls(self, rows_B: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor: ...


@dataclass(frozen=True)
class Variants:
    """What is made of each concept: ``plain`` pictures on the unmentioned background and ``coloured`` on each other
    one; the sprite's side is ``scale`` of the picture's, its centre within ``shift`` of the middle."""

    plain: int = 8
    coloured: int = 1
    scale: tuple[float, float] = (0.84, 0.94)
    shift: float = 0.03
    seed: int = 1


@dataclass(frozen=True)
class SpritePictures:
    """The starter's sprites on plain backgrounds: some pictures of each concept. ``sprites_mark`` is their
    fingerprint."""

    sprites: Tensor
    concepts: Sequence[Concept]
    variants: Variants
    side: int
    sprites_mark: str

    @property
    def mark(self) -> str:
        return f"{self.sprites_mark} {self.variants} {PALETTE} {self.side}"

    @property
    def groups(self) -> Tensor:
        """[N]: the concept of each picture."""
        return self._layout[1]

    @property
    def captions(self) -> Sequence[Sequence[str]]:
        names = list(PALETTE)
        pairs = zip(self._layout[1].tolist(), self._layout[2].tolist(), strict=True)
        return [[with_background(text, names[on]) for text in self.concepts[who].captions] for who, on in pairs]

    @cached_property
    def _layout(self) -> tuple[Layout, Tensor, Tensor]:
        """Where everything goes, and the numbers of each picture's concept and of its background's colour."""
        plain = list(PALETTE).index(PLAIN)
        others = [number for number in range(len(PALETTE)) if number != plain]
        each = torch.tensor([plain] * self.variants.plain + others * self.variants.coloured)
        colour = each.repeat(len(self.concepts))
        concept = torch.arange(len(self.concepts)).repeat_interleave(len(each))
        generator = torch.Generator().manual_seed(self.variants.seed)
        wide, shift = self.variants.scale, self.variants.shift
        sprite = torch.tensor([each.row for each in self.concepts])[concept]
        return place(sprite, palette_tensor()[colour], generator, scale=wide, shift=shift), concept, colour

    def pixels(self, rows_B: Tensor) -> Tensor:
        """[B, 3, P, P] in [-1, 1]."""
        layout = Layout(**{name: tensor[rows_B] for name, tensor in vars(self._layout[0]).items()})
        return render(self.sprites, layout, self.side)

    def controls(self, rows_B: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """What ``make`` makes of the pictures."""
        return make(self.pixels(rows_B))


@dataclass(frozen=True)
class ControlledLatents:
    """``{"latents": [B, C, h, w], "control": [B, C, h, w], "text": [B, S, E], "mask": [B, S]}``: any of the pictures
    ``rows`` with any of its captions.

    ``latents`` and ``control`` [N, C, h, w] are in half precision and in the transformer's scale.
    """

    latents: Tensor
    control: Tensor
    captions: Captions
    rows: Tensor

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        row = self.rows[torch.randint(len(self.rows), (size,), generator=generator)]
        return self.of(row, self.captions.any(row, generator))

    def of(self, row: Tensor, caption: Tensor) -> dict[str, Tensor]:
        """Those pictures with that one of each one's captions."""
        text, mask = self.captions.rows(row, caption)
        latents, control = self.latents[row].float(), self.control[row].float()
        return {"latents": latents, "control": control, "text": text.float(), "mask": mask}

    def only(self, rows: Tensor) -> ControlledLatents:
        """The same, drawing from the pictures ``rows``."""
        return replace(self, rows=rows)


def controlled(
    captions: Sequence[Sequence[str]], latents: Tensor, control: Tensor, sentences: Sequence[str], texts: TextSet
) -> ControlledLatents:
    """Join pictures and their ``captions`` to ``texts``, which are the ``sentences`` encoded."""
    tokens = int(texts.length.max())
    return ControlledLatents(
        latents=latents,
        control=control,
        captions=Captions.of(captions, sentences, texts, tokens),
        rows=torch.arange(len(captions)),
    )


def hold_out(groups_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Numbers of the pictures to train with, and of one picture of each of ``count`` groups that none of those is of.
    Which ones depends on nothing but ``groups``."""
    generator = torch.Generator().manual_seed(0)
    kinds = groups_N.unique()
    assert count < len(kinds), "something is left to train with"
    held = kinds[torch.randperm(len(kinds), generator=generator)[:count]]
    members = [(groups_N == kind).nonzero()[:, 0] for kind in held]
    one = [int(each[torch.randint(len(each), (), generator=generator)]) for each in members]
    return (~torch.isin(groups_N, held)).nonzero()[:, 0], torch.tensor(one, dtype=torch.long)
