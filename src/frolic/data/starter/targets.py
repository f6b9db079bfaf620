"""What the text encoder should make of each sentence and of each word in it.

K sentences, U units (words, or nouns of two words), E the teacher's width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.data.starter.anchors import anchor
from frolic.data.starter.captions import with_article
from frolic.data.starter.wordnet import WordNet

KIND, GLOSS = 0.6, 0.3
"""How far a word goes towards what it is a kind of and towards its definition. Chosen on the synonym suite's words by
the teacher's own nearest captions: 0.62 right without, 0.79 with, and 0.71 when what it is a kind of weighs 1.5."""

_WORD = re.compile(r"[a-z0-9']+(?:-[a-z0-9']+)*")
_GRAMMAR = frozenset((
    "a", "an", "the", "of", "in", "on", "at", "to", "with", "and", "or", "for", "by", "from", "into", "over",
    "under", "above", "below", "behind", "beside", "near", "next", "is", "it", "left", "right", "top", "bottom",
    "front", "back", "side", "middle", "background", "style", "picture", "icon", "flat", "noto", "emoji",
    "render", "one", "two", "three", "four", "big", "large", "huge", "small", "tiny", "little", "same", "other",
    "that", "which", "be", "as", "its", "used", "having",
))  # fmt: skip
"""Words that sentences are held together with; WordNet's nouns of these spellings are others ("in" is an inch)."""


@dataclass(frozen=True)
class Targets:
    """``sentences`` [K, E] and ``units`` [U, E] of unit length, in half precision; ``places[k]`` are the characters
    that a unit of sentence k takes, and which unit it is: (start, end, row of ``units``)."""

    sentences: Tensor
    units: Tensor
    places: list[list[tuple[int, int, int]]]


def split(text: str, pairs: Collection[str]) -> Iterator[tuple[int, int, str]]:
    """The units of ``text``, left to right: words, two at a time where they are one of ``pairs``."""
    words = [(match.start(), match.end(), match[0]) for match in _WORD.finditer(text)]
    place = 0
    while place < len(words):
        start, end, unit = words[place]
        if place + 1 < len(words) and text[start : words[place + 1][1]] in pairs:
            end, unit, place = words[place + 1][1], text[start : words[place + 1][1]], place + 1
        yield start, end, unit
        place += 1


def targets(
    texts: Sequence[str], drawn: Collection[str], net: WordNet, embed: Callable[[Sequence[str]], Tensor]
) -> Targets:
    """Targets for ``texts``. ``drawn`` are the nouns of what is drawn, without article; ``embed`` is the teacher.

    A sentence encoder knows that a puppy is like a dog, and also that it is like a kitten, a toy and a bark. So a noun
    that is not drawn is moved towards its ``anchor``, and sentences are moved with the nouns in them. The nouns of what
    is drawn stay as they are: they must be told apart.

    Words have targets free of context, because the teacher's states of the tokens of one sentence are nearly alike
    (cosine 0.44 after the mean is taken off) and say less of a word than its own sentence does.
    """
    pairs = {name for name in drawn if name.count(" ") == 1}
    pairs |= {text.partition(" ")[2] for text in texts if text.count(" ") == 2 and net.senses(text.partition(" ")[2])}
    parts = [list(split(text, pairs)) for text in texts]
    units = list(dict.fromkeys(unit for row in parts for _, _, unit in row))
    known = {*drawn, *(word for name in drawn for word in name.split()), *_GRAMMAR}
    anchors = {unit: anchor(unit, net, drawn) for unit in units if unit not in known and len(unit) > 2}
    found = {unit: near for unit, near in anchors.items() if near is not None}
    spoken = {unit: with_article(unit) if unit in found or unit in drawn else unit for unit in units}
    wanted = dict.fromkeys([*texts, *spoken.values()])
    wanted |= dict.fromkeys(text for near in found.values() for text in (near.kind, near.gloss))
    vectors = embed(list(wanted))
    row_of = {text: row for row, text in enumerate(wanted)}
    unit_of = {unit: row for row, unit in enumerate(units)}

    shift_UE = torch.zeros(len(units), vectors.shape[1])
    rows = torch.tensor([unit_of[unit] for unit in found], dtype=torch.long)
    for weight, part in ((KIND, [near.kind for near in found.values()]), (GLOSS, [n.gloss for n in found.values()])):
        shift_UE[rows] += weight * vectors[torch.tensor([row_of[text] for text in part], dtype=torch.long)].float()
    base = vectors[torch.tensor([row_of[spoken[unit]] for unit in units], dtype=torch.long)].float()

    out = vectors[torch.tensor([row_of[text] for text in texts], dtype=torch.long)].float()
    content = [[unit_of[unit] for _, _, unit in row if unit not in _GRAMMAR] for row in parts]
    flat = torch.tensor([unit for row in content for unit in row], dtype=torch.long)
    owner = torch.tensor([k for k, row in enumerate(content) for _ in row], dtype=torch.long)
    count = torch.bincount(owner, minlength=len(texts)).clamp(min=1)
    out.index_add_(0, owner, shift_UE[flat] / count[owner][:, None])
    return Targets(
        sentences=F.normalize(out, dim=-1).half(),
        units=F.normalize(base + shift_UE, dim=-1).half(),
        places=[[(start, end, unit_of[unit]) for start, end, unit in row] for row in parts],
    )
