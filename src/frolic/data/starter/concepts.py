"""Which pictures become concepts, and what they are called: emojibase and CLDR labels, curated by hand.

``curation.json`` holds the judgement: groups without depictable content, near-duplicates that nobody tells apart at
256 pixels, phrasings for labels that are not noun phrases, which pictures of the other collections are worth having,
what can stand in a scene and what can be recoloured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

from frolic.data.starter.captions import captions, gendered, plural, singular_noun

_PLACED = re.compile(r" (?:and|in|on|with|at|under|behind|over|facing) ")
COMPONENTS, FLAGS = "component", "flags"
FLUENT, ICON, CLIP = "fluent", "icon", "clip"


@dataclass(frozen=True)
class Concept:
    """One thing to draw. ``captions`` are noun phrases as a user types them, with the best one first.

    Args:
        code: an emoji's code ("1f98a"), or "icon-..." and "clip-..." for the other collections
        synonyms: further phrasings for training, with article
        near: other things, with article, that none of all pictures is of and its picture comes nearest to
        noun: singular, without article, to be placed in scenes; "" for what cannot be
        plural: "" for what cannot be counted
        colour: the word of the palette that names its one hue, if it can be given another; else ""
        row: its main picture in the pack's sprites
        styles: further pictures by style word ("flat", "noto")
    """

    code: str
    name: str
    group: str
    captions: tuple[str, ...]
    synonyms: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    everyday: bool = False
    noun: str = ""
    plural: str = ""
    colour: str = ""
    row: int = 0
    styles: Mapping[str, int] = field(default_factory=dict)
    near: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pick:
    """A concept that was chosen, and where its main picture is: ``file`` of the collection ``source``."""

    concept: Concept
    source: str
    file: str


def bare_code(hexcode: str) -> str:
    """An emoji's code in lower case without the presentation selector, which catalogues disagree on."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


@cache
def curation() -> dict[str, Any]:
    """The hand-made part: what is dropped and kept, phrasings by label, and the other collections' pictures."""
    return dict(json.loads(resources.files(__package__).joinpath("curation.json").read_text("utf-8")))


def everyday_prompts() -> dict[str, str]:
    """``code -> prompt`` of the everyday suite."""
    rows = json.loads(resources.files("frolic").joinpath("eval/everyday.json").read_text("utf-8"))
    return {row["code"]: row["prompt"] for row in rows}


def neutral_form(label: str, labels: Collection[str]) -> str | None:
    """The label of the same role or action without a gender ("woman pilot" -> "pilot"), if there is one."""
    first, _, rest = label.partition(" ")
    if first not in ("man", "woman", "men", "women") or not rest:
        return None
    return next((form for form in (rest, f"person {rest}", f"people {rest}") if form in labels), None)


def select(
    emoji: list[dict[str, Any]],
    groups: Mapping[str, Mapping[str, str]],
    annotations: Mapping[str, Mapping[str, list[str]]],
    sprites: Collection[str],
    rules: Mapping[str, Any],
    everyday: Mapping[str, str],
    forbidden: Callable[[str], bool] = lambda phrase: False,
) -> list[Pick]:
    """The kept concepts: emoji in the catalogue's own order, then the other collections'.

    ``emoji`` and ``groups`` are emojibase's ``data.json`` and ``groups.json``, ``annotations`` CLDR's table by
    character, ``sprites`` the picture files (no suffix), ``everyday`` codes and their prompts. Each everyday prompt
    becomes its concept's first caption. No caption is ``forbidden``, and none is the first one of an earlier concept.
    """
    files = {bare_code(stem): stem for stem in sprites}
    entries = [entry for entry in emoji if "group" in entry and bare_code(entry["hexcode"]) in files]
    labels = {entry["label"] for entry in entries}
    countless = set(rules["no_article"])
    picks: list[Pick] = []
    taken: set[str] = set()

    def add(source: str, file: str, concept: Concept, subgroup: str) -> None:
        phrases = tuple(phrase for phrase in concept.captions if phrase not in taken)
        if not phrases:
            return
        taken.add(phrases[0])
        noun = _scene_noun(concept.name, subgroup, phrases, rules)
        many = "" if noun in rules["no_plural"] else plural(noun)
        colour = rules["recolour"].get(concept.code, "")
        whole = replace(concept, captions=phrases, noun=noun, plural=many if noun else "", colour=colour)
        picks.append(Pick(whole, source, file))

    for entry in entries:
        label, code = entry["label"], bare_code(entry["hexcode"])
        group = groups["groups"][str(entry["group"])]
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        if not _kept(label, group, subgroup, labels, rules):
            continue
        spoken = annotations.get(entry["emoji"].replace("\ufe0f", ""), {})
        curated = [*([everyday[code]] if code in everyday else []), *rules["captions"].get(label, [])]
        neutral = neutral_form(label, labels)
        if not curated and neutral is not None:
            phrases = captions(neutral, rules["captions"].get(neutral, []), [], countless)
            curated = gendered(label.partition(" ")[0], phrases)
        words = dict.fromkeys([*entry.get("tags", []), *spoken.get("default", [])])
        phrases = captions(label, curated, spoken.get("tts", []), countless, forbidden)
        concept = Concept(code, label, group, phrases, keywords=tuple(words), everyday=code in everyday)
        add(FLUENT, files[code], concept, subgroup)
    for source in (ICON, CLIP):
        for group, things in rules[source].items():
            for file, curated in things.items():
                name = singular_noun(curated) or curated[0]
                phrases = captions(name, curated, [], countless, forbidden)
                code = f"{source}-{name.replace(' ', '-')}"
                add(source, file, Concept(code, name, group, phrases), "")
    return picks


def _kept(label: str, group: str, subgroup: str, labels: Collection[str], rules: Mapping[str, Any]) -> bool:
    if group in (COMPONENTS, FLAGS):
        return False
    if label in rules["keep"] or label in rules["keep_gendered"]:
        return True
    if subgroup in rules["drop_subgroups"] or label in rules["drop"]:
        return False
    return neutral_form(label, labels) is None


def _scene_noun(name: str, subgroup: str, phrases: tuple[str, ...], rules: Mapping[str, Any]) -> str:
    """What the thing is called in a scene: its first caption with an article, unless it is no thing to be placed.

    A phrase that places things itself ("a dog on a leash") would not say what of a scene it means.
    """
    if name in rules["nouns"]:
        return str(rules["nouns"][name])
    if subgroup in rules["no_noun_subgroups"] or name in rules["no_noun"]:
        return ""
    noun = singular_noun(phrases)
    return "" if _PLACED.search(noun) else noun
