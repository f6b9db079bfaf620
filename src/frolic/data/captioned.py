"""Composed pictures with a true caption each, as they are needed: no two steps see the same one.

B batch, N sprites, P side of the picture, S tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.data.scenes import Cast, Scene, render, scenes
from frolic.data.starter.concepts import Concept

T = TypeVar("T")
Tokens = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Texts to ids [B, S] and mask [B, S]."""


def reduced(sprites_N4SS: Tensor, side: int) -> Tensor:
    """The sprites (8-bit RGBA, straight alpha) at ``side`` pixels: what small pictures are drawn from in a fraction of
    the time."""
    made = []
    for some in sprites_N4SS.split(64):
        x = some.float()
        alpha = F.interpolate(x[:, 3:], size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        lit = F.interpolate(
            x[:, :3] * x[:, 3:], size=(side, side), mode="bilinear", antialias=True, align_corners=False
        )
        colour = torch.where(alpha > 0, lit / alpha.clamp_min(1e-3), 0.0)
        made.append(torch.cat([colour, alpha], dim=1).round().clamp(0, 255).byte())
    return torch.cat(made)


def meaning(scene: Scene, concepts: Sequence[Concept]) -> int:
    """A number that scenes share of which each one's captions are true of the other: the same things in the same
    colours, arranged in the same way on the same ground."""
    things = [
        f"{concepts[t.concept].code} {t.said} {t.row if scene.kind == 'style' else ''}"
        + (f" {t.x:.3f} {t.y:.3f} {t.scale:.3f}" if scene.kind in ("position", "size") else "")
        for t in scene.things
    ]
    return number_of([scene.kind if scene.kind in ("position", "size") else "", scene.ground, *sorted(things)])


def number_of(facts: Sequence[str]) -> int:
    """A number that is the same for the same ``facts``, in every run, and fits a tensor."""
    return int.from_bytes(hashlib.blake2b("\0".join(facts).encode(), digest_size=7).digest(), "big")


@dataclass(frozen=True)
class CaptionedPictures:
    """``{"pixels": [B, 3, P, P] in [0, 1], "ids": [B, S], "mask": [B, S], "meaning": [B]}``: scenes in the shares of
    ``mix``, each with one of its captions. ``meaning`` is the same where a caption is as true of another picture.

    A share of ``close`` plays in a cast of ``few`` concepts that can all be placed, counted or recoloured, drawn anew
    for each batch: where the same thing is met often, only colour, number, place and ground tell captions apart.
    """

    sprites: Tensor
    concepts: Sequence[Concept]
    cast: Cast
    side: int
    mix: Mapping[str, float]
    tokens: Tokens
    close: float = 0.5
    few: int = 24

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        seed = int(torch.randint(2**62, (), generator=generator))
        narrow = round(size * self.close)
        shown = list(scenes(self.cast, size - narrow, seed, self.mix)) if narrow < size else []
        keys = [meaning(scene, self.concepts) for scene in shown]
        if narrow:
            some = self.some(Random(seed))
            near = scenes(Cast(some), narrow, seed, {kind: self.mix[kind] for kind in _NEAR if self.mix.get(kind)})
            keys += [meaning(scene, some) for scene in near]
            shown += near
        choices = torch.rand(size, generator=generator).tolist()
        texts = [s.captions[int(c * len(s.captions))] for s, c in zip(shown, choices, strict=True)]
        ids, mask = self.tokens(texts)
        pixels = render(self.sprites, shown, self.side, self.side).add(1).div(2).clamp_(0, 1)
        return {"pixels": pixels, "ids": ids, "mask": mask, "meaning": torch.tensor(keys)}

    def some(self, rng: Random) -> list[Concept]:
        """``few`` concepts, half of them of those that can be recoloured."""
        placeable = [concept for concept in self.concepts if concept.noun and concept.plural]
        coloured = [concept for concept in placeable if concept.colour]
        half = rng.sample(coloured, min(len(coloured), self.few // 2))
        rest = [concept for concept in placeable if concept not in half]
        return half + rng.sample(rest, min(len(rest), self.few - len(half)))


_NEAR = ("colour", "ground", "count", "two", "position")


GROUP = 100
"""How many captions are told apart from each other when it is measured how well that goes."""
UNSEEN = -1
"""A seed that no batch has: those are positive."""


@dataclass(frozen=True)
class HeldOut:
    """Scenes that no batch of a run shows, in groups of ``GROUP`` whose captions differ in meaning."""

    scenes: tuple[Scene, ...]

    @classmethod
    def make(cls, cast: Cast, groups: int, mix: Mapping[str, float]) -> HeldOut:
        """As many whole groups as the concepts have scenes for, ``groups`` at most; at least two scenes."""
        shown = scenes(cast, 2 * groups * GROUP, UNSEEN, mix)
        return cls(tuple(apart(shown, lambda scene: meaning(scene, cast.concepts), groups)))

    def groups(self) -> list[Sequence[Scene]]:
        return grouped(self.scenes)


def apart(shown: Iterable[T], meaning_of: Callable[[T], int], groups: int) -> list[T]:
    """Of ``shown`` as many as fill whole groups in each of which all differ in meaning, ``groups`` at most; all that do
    where they fill none."""
    kept: list[T] = []
    keys: set[int] = set()
    for one in shown:
        if len(kept) % GROUP == 0:
            keys = set()
        key = meaning_of(one)
        if key not in keys and len(kept) < groups * GROUP:
            keys.add(key)
            kept.append(one)
    whole = len(kept) // GROUP * GROUP
    return kept[: whole or len(kept)]


def grouped(every: Sequence[T]) -> list[Sequence[T]]:
    """What ``apart`` gave, group by group."""
    return [every[first : first + GROUP] for first in range(0, len(every), GROUP)]
