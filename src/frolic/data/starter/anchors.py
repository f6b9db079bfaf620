"""Where a word that no picture shows should land: near the thing that can be drawn which WordNet puts it with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from frolic.data.starter.captions import with_article
from frolic.data.starter.wordnet import Synset, WordNet

_LEVELS = 3
_SENSES = 3
_SHORT = 8


@dataclass(frozen=True)
class Anchor:
    """``kind`` is what the word is a kind of, with article ("a dog"); ``gloss`` the beginning of its definition."""

    kind: str
    gloss: str


def anchor(word: str, net: WordNet, drawn: Collection[str]) -> Anchor | None:
    """The anchor of a noun, or None for what is ``drawn`` itself or is no noun.

    ``drawn`` are nouns of things that are drawn, without article. Of the word's most common meanings the one with a
    drawn word nearest above it is taken, or, where none has, the first that can be drawn at all.
    """
    senses = (net.senses(word) or net.senses(word.removesuffix("s")))[:_SENSES]
    if word in drawn or not senses:
        return None
    best: tuple[float, Synset, str] | None = None
    for rank, sense in enumerate(senses):
        steps = _kind(sense, word, net, drawn)
        if steps is None:
            continue
        height, kind = steps
        score = height + rank + (0 if sense.field else 2)
        if best is None or score < best[0]:
            best = score, sense, kind
    if best is None:
        sense = next((sense for sense in senses if sense.field), senses[0])
        above = next(net.above(sense, 1), None)
        return Anchor(with_article(above.words[0].lower() if above else word), short(sense.gloss))
    return Anchor(with_article(best[2]), short(best[1].gloss))


def short(gloss: str) -> str:
    """The first clause of a definition, cut to a prompt's length."""
    first = gloss.partition(";")[0].partition("(")[0].strip() or gloss
    return " ".join(first.replace(",", " ,").split()[:_SHORT]).rstrip(" ,")


def _kind(sense: Synset, word: str, net: WordNet, drawn: Collection[str]) -> tuple[int, str] | None:
    """The nearest drawn word at or above ``sense``, and how many levels up."""
    row, met = [sense], {sense.key}
    for height in range(_LEVELS + 1):
        for one in row:
            for lemma in one.words:
                # Its first meaning: "cat" is also a tractor, which is why a caterpillar would be one.
                if lemma != word and lemma in drawn and net.senses(lemma)[:1] == (one,):
                    return height, lemma
        row = [up for one in row for up in net.above(one, 1) if up.key not in met]
        met |= {one.key for one in row}
    return None
