"""Emoji labels to plain English noun phrases."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_AN = re.compile(r"(?:[aeio]|u(?!ni|ti|s[ae]|kulele|fo\b)|hour|x-ray)")
_QUOTES = {0x2018: "'", 0x2019: "'", 0x201C: None, 0x201D: None, ord(":"): None}
_DETERMINER = re.compile(r"^(?:an?|the|two|three) ")


def plain(label: str) -> str:
    """``label`` in lower case with plain quotes and no ``:``, as a user would type it."""
    return " ".join(label.lower().translate(_QUOTES).split())


def with_article(name: str) -> str:
    """``name`` with its indefinite article; unchanged when it begins with a determiner."""
    if _DETERMINER.match(name):
        return name
    return f"{'an' if _AN.match(name) else 'a'} {name}"


def captions(
    label: str, curated: Iterable[str], other_names: Iterable[str], countless: Collection[str]
) -> tuple[str, ...]:
    """Up to four phrasings of one concept, the best first, without repeats.

    ``curated`` phrasings are used as they are; without them the label gets an article, unless it is plural or a mass
    noun (``countless``). ``other_names`` (another catalogue's name of the same concept) come next, then the bare name.
    """
    kept = list(curated)
    if not kept:
        for name in (label, *other_names):
            noun = plain(name)
            kept.append(noun if label in countless else with_article(noun))
    bare = _DETERMINER.sub("", kept[0])
    return tuple(dict.fromkeys([*kept, bare]))[:4]
