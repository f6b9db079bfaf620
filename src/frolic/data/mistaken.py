"""Captions that are nearly true of a scene or a clip, and not: what a judge of pictures and texts has to learn to tell
apart.

Words are changed that say a colour, a place, a number or what a thing does, so that everything else still holds; or one
of two things is said twice, since that is what a model draws that has heard only one of them.
"""

from __future__ import annotations

import re
from functools import partial
from random import Random

from frolic.data.compose import PALETTE
from frolic.data.moves import MOVES, SAID
from frolic.data.phrases import NUMBERS

_OPPOSITES = (
    ("to the left of", "to the right of"), ("on the left", "on the right"), ("left of", "right of"),
    ("above", "below"), ("under", "above"), ("at the top", "at the bottom"), ("in front of", "behind"),
)  # fmt: skip
_PLURAL = tuple((word, str(number)) for number, word in NUMBERS.items() if number > 1)
_WORD = re.compile(r"[a-z]+")
_KIND = {phrase: kind for kind, phrases in SAID.items() for phrase in phrases}
_MOVE = re.compile(rf"\b({'|'.join(sorted(_KIND, key=len, reverse=True))})\b(?: ((?:counter)?clockwise))?")
_SIDE = re.compile(r"\bto the (left|right)\b(?! of)")
_BETWEEN = "and|with|next to|beside|above|below|under|in front of|behind|(?:to the )?(?:left|right) of"
_ENDS = r"(?: on the (?:left|right)| at the (?:top|bottom))?"
_PAIR = re.compile(
    rf"^(an? [^,]+?)(?={_ENDS} (?:{_BETWEEN}) an? ){_ENDS} (?:{_BETWEEN}) "
    r"(an? [^,]+?)(?= on (?:the|an?|grass|green grass)\b| in (?:the|an?)\b| at (?:the|night|sea)\b| against |,|$)"
)
_REVERSED = {"left": "right", "up": "down", "fall": "up", "grow": "shrink"}
_REVERSED |= {"right": "left", "down": "up", "shrink": "grow"}
_ALIKE = {"down": "fall", "fall": "down"}
_ARTICLE = re.compile(rf"\b(an?) ({'|'.join(PALETTE)})\b")


def mistaken(caption: str, rng: Random) -> str | None:
    """``caption`` with one thing in it that is not so; None where it says nothing of what is changed."""
    ways = (_other_colour, _colours_swapped, _other_place, _other_number, _other_move, _one_twice)
    wrong = [text for way in ways if (text := way(caption, rng)) is not None]
    return rng.choice(wrong) if wrong else None


def _colours(caption: str) -> list[re.Match[str]]:
    return [found for found in _WORD.finditer(caption) if found[0] in PALETTE]


def _other_colour(caption: str, rng: Random) -> str | None:
    said = _colours(caption)
    if not said:
        return None
    one = rng.choice(said)
    other = rng.choice([word for word in PALETTE if word != one[0]])
    return _with_articles(caption[: one.start()] + other + caption[one.end() :])


def _colours_swapped(caption: str, rng: Random) -> str | None:
    said = _colours(caption)
    if len(said) < 2 or said[0][0] == said[1][0]:
        return None
    (a, b), (c, d) = said[0].span(), said[1].span()
    return _with_articles(caption[:a] + caption[c:d] + caption[b:c] + caption[a:b] + caption[d:])


def _with_articles(caption: str) -> str:
    """A wrong article would give a mistake away."""
    return _ARTICLE.sub(lambda said: f"{'an' if said[2][0] in 'aeiou' else 'a'} {said[2]}", caption)


def _other_place(caption: str, rng: Random) -> str | None:
    for one, other in _OPPOSITES:
        words = re.compile(rf"\b(?:({one})|{other})\b")
        if words.search(caption):
            return words.sub(partial(_turned, one, other), caption)
    return None


def _turned(one: str, other: str, said: re.Match[str]) -> str:
    return other if said[1] else one


def _other_number(caption: str, rng: Random) -> str | None:
    first, space, rest = caption.partition(" ")
    for word, digit in _PLURAL:
        if space and first in (word, digit):
            others = [pair for pair in _PLURAL if pair[0] != word]
            return f"{rng.choice(others)[0 if first == word else 1]} {rest}"
    return None


def _other_move(caption: str, rng: Random) -> str | None:
    """The other way in half of the cases, if there is one, else any other move."""
    found = [*_MOVE.finditer(caption)]
    if not found:
        side = _SIDE.search(caption)  # "walking to the left"
        return side and caption[: side.start(1)] + _REVERSED[side[1]] + caption[side.end(1) :]
    one = rng.choice(found)
    kind, turn = _KIND[one[1]], one[2]
    if turn and rng.random() < 0.5:
        turned = "clockwise" if turn.startswith("counter") else "counterclockwise"
        return caption[: one.start(2)] + turned + caption[one.end(2) :]
    other = _REVERSED.get(kind)
    if other is None or rng.random() < 0.5:
        other = rng.choice([move for move in MOVES if move not in (kind, _ALIKE.get(kind))])
    return caption[: one.start()] + rng.choice(SAID[other]) + caption[one.end() :]


def _one_twice(caption: str, rng: Random) -> str | None:
    """Of two things one in both places ("a dog and a dog")."""
    found = _PAIR.match(caption)
    if found is None or found[1] == found[2]:
        return None
    one, other = rng.choice(((1, 2), (2, 1)))
    return caption[: found.start(one)] + found[other] + caption[found.end(one) :]
