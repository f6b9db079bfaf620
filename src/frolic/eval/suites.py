"""The suites' prompts, made from what the judge knows of the concepts. Whatever combines two things is a combination
that training leaves out (``frolic.data.heldout``); which of these are asked for is drawn with a fixed seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from typing import Any

from frolic.data.compose import PALETTE
from frolic.data.heldout import reserved
from frolic.data.starter.captions import with_article
from frolic.errors import RequestError, nearest

SIZE = 200
SEED = 4
SINGLE_EVERYDAY = "single-everyday"
NUMBERS = ("one", "two", "three", "four")
RELATIONS: Mapping[str, str] = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
    "beside": "next to",
    "front": "in front of",
}
LANDSCAPES: Mapping[str, str] = {
    "sky": "in the sky",
    "night": "in the night sky",
    "grass": "on grass",
    "sea": "on the sea",
    "room": "in a room",
}
STYLE_PHRASES: Mapping[str, str] = {"flat": "flat icon of {phrase}", "noto": "noto style {noun}"}


@dataclass(frozen=True)
class Known:
    """A concept as the suites need it; the fields are those of ``frolic.data.starter.concepts.Concept``, with the first
    caption only and the styles' words."""

    code: str
    name: str
    caption: str
    noun: str = ""
    plural: str = ""
    colour: str = ""
    everyday: bool = False
    styles: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Known:
        """Raises TypeError for unknown or missing fields."""
        return cls(**{**row, "styles": tuple(row.get("styles", ()))})

    @property
    def phrase(self) -> str:
        """The noun with its article: the caption itself where it is that."""
        return self.caption if self.caption.endswith(f" {self.noun}") else with_article(self.noun)


@dataclass(frozen=True)
class Case:
    """One prompt and what its picture must show: concepts by code (any of ``accepted`` for a synonym), and what the
    suite asks of them besides."""

    suite: str
    prompt: str
    codes: tuple[str, ...]
    accepted: tuple[str, ...] = ()
    count: int = 1
    relation: str = ""
    colour: str = ""
    ground: str = ""
    style: str = ""


def suite(name: str, concepts: Sequence[Known], limit: int | None = None) -> list[Case]:
    """The cases of a suite, ``limit`` of them evenly spaced. Raises RequestError for an unknown name and when there are
    no concepts for it."""
    if name not in SUITES:
        raise RequestError(
            f"Choose a suite of {', '.join([*SUITES, 'all'])}: {name!r} is not known{nearest(name, SUITES)}."
        )
    if limit is not None and limit < 1:
        raise RequestError("Give --limit at least 1.")
    cases = SUITES[name](concepts)
    if not cases:
        raise RequestError(f"The judge knows no concepts for the suite {name}; train it on a newer training set.")
    if limit is None or limit >= len(cases):
        return cases
    return [cases[index * len(cases) // limit] for index in range(limit)]


def single_everyday(concepts: Sequence[Known]) -> list[Case]:
    known = {concept.code for concept in concepts}
    return [
        Case(SINGLE_EVERYDAY, row["prompt"], (row["code"],)) for row in _rows("everyday.json") if row["code"] in known
    ]


def single(concepts: Sequence[Known]) -> list[Case]:
    return [Case("single", concept.caption, (concept.code,)) for concept in concepts]


def two(concepts: Sequence[Known]) -> list[Case]:
    pairs = _pairs(concepts, random.Random(f"two {SEED}"), SIZE)
    return [Case("two", f"{a.phrase} and {b.phrase}", (a.code, b.code)) for a, b in pairs]


def count(concepts: Sequence[Known]) -> list[Case]:
    """As many of each number, in order, so that evenly spaced cases have all; no reservation is made for ``one``."""
    things = [concept for concept in _placeable(concepts) if concept.plural]
    cases: list[list[Case]] = []
    for number in range(1, len(NUMBERS) + 1):
        kept = [thing for thing in things if number == 1 or reserved("count", thing.code, str(number))]
        picked = _draw(kept, random.Random(f"count {number} {SEED}"), SIZE // len(NUMBERS))
        word = NUMBERS[number - 1]
        cases.append(
            [
                Case("count", f"{word} {thing.noun if number == 1 else thing.plural}", (thing.code,), count=number)
                for thing in picked
            ]
        )
    return [case for part in cases for case in part]


def colour(concepts: Sequence[Known]) -> list[Case]:
    asked = [
        (thing, word)
        for thing in concepts
        for word in PALETTE
        if thing.noun and thing.colour and not set(thing.caption.split()) & set(PALETTE)
        if word != thing.colour and reserved("colour", thing.code, word)
    ]
    return [
        Case("colour", f"{with_article(f'{word} {thing.noun}')}", (thing.code,), colour=word)
        for thing, word in _draw(asked, random.Random(f"colour {SEED}"), SIZE)
    ]


def position(concepts: Sequence[Known]) -> list[Case]:
    """As many of each relation, in order."""
    pairs = _pairs(concepts, random.Random(f"position {SEED}"), SIZE)
    asked = [(relation, pair) for index, relation in enumerate(RELATIONS) for pair in pairs[index :: len(RELATIONS)]]
    return [
        Case("position", f"{a.phrase} {RELATIONS[relation]} {b.phrase}", (a.code, b.code), relation=relation)
        for relation, (a, b) in asked
    ]


def style(concepts: Sequence[Known]) -> list[Case]:
    """Styles are trained for every concept that has them, so these prompts are not held out."""
    cases = []
    for word, pattern in STYLE_PHRASES.items():
        kept = [concept for concept in concepts if concept.noun and word in concept.styles]
        cases.append(
            [
                Case("style", pattern.format(phrase=thing.phrase, noun=thing.noun), (thing.code,), style=word)
                for thing in _draw(kept, random.Random(f"style {word} {SEED}"), SIZE // len(STYLE_PHRASES))
            ]
        )
    return [case for part in cases for case in part]


def synonym(concepts: Sequence[Known]) -> list[Case]:
    known = {concept.code for concept in concepts}
    cases = []
    for row in _rows("synonyms.json"):
        accepted = tuple(code for code in row.get("codes", [row["code"]]) if code in known)
        if row["code"] in known:
            cases.append(Case("synonym", row["prompt"], (row["code"],), accepted=accepted))
    return cases


def background(concepts: Sequence[Known]) -> list[Case]:
    """Three of five on a colour, two of five in a landscape."""
    things = _placeable(concepts)
    grounds: list[list[Case]] = []
    for words, share in ((PALETTE, 0.6), (LANDSCAPES, 0.4)):
        asked = [(thing, word) for thing in things for word in words if reserved("ground", thing.code, word)]
        picked = _draw(asked, random.Random(f"background {share} {SEED}"), round(SIZE * share))
        grounds.append(
            [Case("background", f"{thing.phrase} {_where(word)}", (thing.code,), ground=word) for thing, word in picked]
        )
    return [case for part in grounds for case in part]


SUITES: Mapping[str, Callable[[Sequence[Known]], list[Case]]] = {
    SINGLE_EVERYDAY: single_everyday,
    "single": single,
    "two": two,
    "count": count,
    "colour": colour,
    "position": position,
    "style": style,
    "synonym": synonym,
    "background": background,
}


def _where(word: str) -> str:
    return LANDSCAPES[word] if word in LANDSCAPES else f"on {with_article(word)} background"


def _placeable(concepts: Iterable[Known]) -> list[Known]:
    return [concept for concept in concepts if concept.everyday and concept.noun]


def _pairs(concepts: Sequence[Known], rng: random.Random, size: int) -> list[tuple[Known, Known]]:
    things = _placeable(concepts)
    kept = [
        (a, b) for a, b in combinations(things, 2) if reserved("pair", a.code, b.code) and not _akin(a.noun, b.noun)
    ]
    return [pair if rng.random() < 0.5 else (pair[1], pair[0]) for pair in _draw(kept, rng, size)]


def _akin(a: str, b: str) -> bool:
    """A pine tree is a tree too: who asks for both could mean one."""
    return a.endswith(b) or b.endswith(a)


def _draw(kept: Sequence[Any], rng: random.Random, size: int) -> list[Any]:
    """``size`` of ``kept`` in random order; where there are fewer, again, for pictures of other seeds."""
    order = rng.sample(kept, len(kept))
    return [order[index % len(order)] for index in range(size)] if order else []


def _rows(name: str) -> list[dict[str, Any]]:
    return list(json.loads(resources.files(__package__).joinpath(name).read_text("utf-8")))
