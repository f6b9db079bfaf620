"""Emoji labels to plain English noun phrases, and their plurals."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

MOST = 4
_AN = re.compile(r"(?:(?!one\b|once\b|eu|ewe\b)[aeio]|u(?!ni|ti|s[ae]|kulele|fo\b)|hour|x-ray)")
_QUOTES = {0x2018: "'", 0x2019: "'", 0x201C: None, 0x201D: None, ord(":"): None}
_DETERMINER = re.compile(r"^(?:an?|the|two|three) ")
_ARTICLE = re.compile(r"^an? ")
_TAIL = re.compile(r" (?:of|in|on|with|for|without|under|behind|at|to|into) ")
_GENDERED = {"man": "male", "woman": "female", "men": "male", "women": "female"}
_IRREGULAR = {
    "bison": "bison",
    "buffalo": "buffaloes",
    "cactus": "cacti",
    "calf": "calves",
    "child": "children",
    "deer": "deer",
    "dice": "dice",
    "elf": "elves",
    "fez": "fezzes",
    "fish": "fish",
    "foot": "feet",
    "fungus": "fungi",
    "goose": "geese",
    "half": "halves",
    "knife": "knives",
    "leaf": "leaves",
    "loaf": "loaves",
    "man": "men",
    "mango": "mangoes",
    "moose": "moose",
    "mosquito": "mosquitoes",
    "mouse": "mice",
    "ox": "oxen",
    "person": "people",
    "potato": "potatoes",
    "quiz": "quizzes",
    "reindeer": "reindeer",
    "scarf": "scarves",
    "sheaf": "sheaves",
    "sheep": "sheep",
    "shelf": "shelves",
    "shrimp": "shrimp",
    "squid": "squid",
    "thief": "thieves",
    "tomato": "tomatoes",
    "tooth": "teeth",
    "wolf": "wolves",
    "woman": "women",
}


def plain(label: str) -> str:
    """``label`` in lower case with plain quotes and no ``:``, as a user would type it."""
    return " ".join(label.lower().translate(_QUOTES).split())


def with_article(name: str) -> str:
    """``name`` with its indefinite article; unchanged when it begins with a determiner."""
    if _DETERMINER.match(name):
        return name
    return f"{'an' if _AN.match(name) else 'a'} {name}"


def captions(
    label: str,
    curated: Iterable[str],
    other_names: Iterable[str],
    countless: Collection[str],
    forbidden: Callable[[str], bool] = lambda phrase: False,
) -> tuple[str, ...]:
    """Up to four phrasings of one concept, the best first, without repeats.

    ``curated`` phrasings are used as they are; without them the label gets an article, unless it is plural or a mass
    noun (``countless``). ``other_names`` (another catalogue's name of the same concept) come next, then the bare name.
    Phrases that are ``forbidden`` are left out.
    """
    kept = list(curated)
    if not kept:
        for name in (label, *other_names):
            noun = plain(name)
            kept.append(noun if label in countless else with_article(noun))
    kept = [phrase for phrase in kept if not forbidden(phrase)]
    if not kept:
        return ()
    bare = _DETERMINER.sub("", kept[0])
    return tuple(dict.fromkeys([*kept, bare]))[:MOST]


def gendered(who: str, neutral: Iterable[str]) -> list[str]:
    """Phrases about a person of any gender as phrases about a ``who`` (man, woman, men or women).

    "a person running" becomes "a woman running", "a pilot" becomes "a woman pilot" and "a female pilot".
    """
    phrases = []
    for phrase in neutral:
        name = _DETERMINER.sub("", phrase)
        if re.search(r"\bperson\b|\bpeople\b", name):
            phrases.append(with_article(re.sub(r"\bperson\b|\bpeople\b", who, name)) if phrase != name else "")
        else:
            phrases += [with_article(f"{who} {name}"), with_article(f"{_GENDERED[who]} {name}")]
    return [phrase for phrase in dict.fromkeys(phrases) if phrase]


def singular_noun(phrases: Iterable[str]) -> str:
    """The first of ``phrases`` that has an indefinite article, without it; "" when none has one."""
    return next((_ARTICLE.sub("", phrase) for phrase in phrases if _ARTICLE.match(phrase)), "")


def plural(noun: str) -> str:
    """The plural of a noun phrase: of its last word, or of the last before a preposition ("slices of pizza")."""
    tail = _TAIL.search(noun)
    head, rest = (noun[: tail.start()], noun[tail.start() :]) if tail else (noun, "")
    before, space, word = head.rpartition(" ")
    return before + space + _plural_word(word) + rest


def _plural_word(word: str) -> str:
    stem, hyphen, last = word.rpartition("-")
    if hyphen:
        return stem + hyphen + _plural_word(last)
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending in ("woman", "man", "mouse", "fish", "foot", "tooth", "knife", "person"):
        if word.endswith(ending) and not word.endswith(("human", "caiman")):
            return word.removesuffix(ending) + _IRREGULAR[ending]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"
