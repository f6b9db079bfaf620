"""Other words for a concept: those that training may use, and those that only a suite may ask with."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib import resources

from frolic.data.starter.captions import with_article
from frolic.data.starter.wordnet import FIELDS, Synset, WordNet

_WORD = re.compile(r"[a-z0-9']+")
_LEVELS = 3
_THINGS = frozenset({"artifact", "object", "phenomenon", "plant", "shape", "substance"})
_FIELDS = {
    "smileys-emotion": frozenset[str](),
    "symbols": frozenset[str](),
    "people-body": frozenset({"person", "body"}),
    "animals-nature": frozenset({"animal", "plant", "object", "phenomenon"}),
    "food-drink": frozenset({"food", "plant", "artifact"}),
    "travel-places": frozenset({"artifact", "object", "phenomenon"}),
    "activities": _THINGS,
    "objects": _THINGS,
}
"""What kinds of thing the emoji catalogue's groups hold; other groups may hold any."""
_ODD = re.compile(r"[^s]s$| (?:tree|vine|plant|fungus|butterfly|dog)$|^true ")
"""Plurals, which "a" does not fit, and names of the plant that a fruit grows on."""
_VETO = frozenset((
    "ass", "cigaret", "coconut meat", "electric-light bulb", "hotshot", "human foot", "john", "linkup",
    "loudspeaker system", "miss", "oral cavity", "pizza pie", "privy", "rosebush", "stein", "stop watch", "tec",
    "television system", "tie-in", "virtuoso", "whiz", "whorl", "wiz", "young woman",
))  # fmt: skip
"""What WordNet says and nobody would type for the thing, or for another one."""
_RUDE = re.compile(r"offensive|disparag|derogat|insult|slang|obscene")
_ARTICLE = re.compile(r"^(?:an?|the) ")


@cache
def unseen() -> frozenset[str]:
    """The words and phrases, without article, that the synonym suite asks with and no training caption may use."""
    rows = json.loads(resources.files("frolic").joinpath("eval/synonyms.json").read_text("utf-8"))
    return frozenset(row.get("word") or _ARTICLE.sub("", row["prompt"]) for row in rows)


def uses_unseen(phrase: str) -> bool:
    """Whether ``phrase`` has one of the ``unseen`` words in it, in the singular or the plural, hyphenated or not."""
    words = _words(phrase)
    forms = _unseen_forms()
    return any(
        words[start:end] in forms
        for start in range(len(words))
        for end in range(start + 1, min(start + 3, len(words)) + 1)
    )


@cache
def _unseen_forms() -> frozenset[tuple[str, ...]]:
    return frozenset(_words(form) for phrase in unseen() for form in (phrase, plural(phrase)))


def _words(phrase: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(phrase.lower()))


def plural(noun: str) -> str:
    """The regular English plural of the last word of ``noun``."""
    if noun.endswith("man") and not noun.endswith("human"):
        return noun[:-2] + "en"
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


class Phrasebook:
    """Finds other names that mean one concept and none of the others.

    ``names`` are all concepts' names and captions, ``keywords`` each concept's. A word is taken only if its most common
    noun meaning is the concept's own, or a more general one that is a keyword of this concept alone: "a vehicle" names
    many things, and "a machine" is more often something else than a car.
    """

    def __init__(self, net: WordNet, names: Iterable[str], keywords: Iterable[Iterable[str]] = ()) -> None:
        self._net = net
        self._keywords = Counter(word.lower() for words in keywords for word in set(words))
        self._taken = {bare(name) for name in names}
        self._under: Counter[str] = Counter()
        for name in self._taken:
            found = next((sense for sense in net.senses(name) if sense.field), None)
            if found is not None:
                self._under.update({found.key, *(above.key for above in net.above(found, _LEVELS))})

    def phrases(self, name: str, keywords: Iterable[str], group: str) -> tuple[str, ...]:
        """Phrases with article ("an auto") for the concept called ``name``, best first; often none, at most four.

        ``keywords`` are the catalogue's, ``group`` its group, which tells a bat from a bat.
        """
        name = bare(name)
        found = self._meaning(name, _FIELDS.get(group, frozenset(FIELDS.values())))
        if found is None or _RUDE.search(found.gloss):
            return ()
        said = {keyword.lower() for keyword in keywords}
        own = [word for word in found.words if word in said or self._net.count(word) or _like(word, name)]
        alone = {word for word in said if self._keywords[word] == 1}
        general = [word for above in self._net.above(found, 2) for word in above.words if word in alone]
        kept = [word for word in own if self._usable(word) and self._net.senses(word)[:1] == (found,)]
        kept += [word for word in general if self._usable(word)]
        return tuple(with_article(word) for word in dict.fromkeys(kept))[:4]

    def _meaning(self, name: str, fields: frozenset[str]) -> Synset | None:
        """The most common noun meaning of ``name``, if it is of these fields; of the two most common, if one is not
        drawable at all."""
        drawable = [sense for sense in self._net.senses(name)[:2] if sense.field]
        return drawable[0] if drawable and drawable[0].field in fields else None

    def _usable(self, word: str) -> bool:
        """Whether ``word`` is more than a taxon or a spelling, and says nothing else as often."""
        senses = self._net.senses(word)[:1]
        alone = bool(senses) and bool(senses[0].field) and self._under[senses[0].key] <= 1
        plain = word.islower() and word.isascii() and len(word) > 2 and not _ODD.search(word)
        return alone and plain and word not in self._taken and word not in _VETO and not uses_unseen(word)


def _like(word: str, name: str) -> bool:
    """Whether one holds the other ("sunhat", "sun hat"; "sax", "saxophone")."""
    a, b = word.replace(" ", "").replace("-", ""), name.replace(" ", "").replace("-", "")
    return a in b or b in a


def bare(phrase: str) -> str:
    """``phrase`` in lower case without its article."""
    return _ARTICLE.sub("", phrase.lower())
