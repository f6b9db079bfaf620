"""Which pictures become concepts, and what they are called: emojibase and CLDR labels, curated by hand.

``curation.json`` holds the judgement: groups without depictable content, near-duplicates that nobody tells apart at
128 pixels, phrasings for labels that are not noun phrases.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from frolic.data.starter.captions import captions

COMPONENTS, FLAGS = "component", "flags"


@dataclass(frozen=True)
class Concept:
    """One thing to draw: ``file`` is the sprite's name, ``captions`` are noun phrases with the best one first."""

    code: str
    file: str
    name: str
    group: str
    captions: tuple[str, ...]
    keywords: tuple[str, ...]
    everyday: bool


def bare_code(hexcode: str) -> str:
    """An emoji's code in lower case without the presentation selector, which catalogues disagree on."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def curation() -> dict[str, Any]:
    """The hand-made part: what is dropped and kept, and phrasings by label."""
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
) -> list[Concept]:
    """The kept concepts in the catalogue's own order.

    ``emoji`` and ``groups`` are emojibase's ``data.json`` and ``groups.json``, ``annotations`` CLDR's table by
    character, ``sprites`` the picture files (no suffix), ``everyday`` codes and their prompts. Each everyday prompt
    becomes its concept's first caption.
    """
    files = {bare_code(stem): stem for stem in sprites}
    entries = [entry for entry in emoji if "group" in entry and bare_code(entry["hexcode"]) in files]
    labels = {entry["label"] for entry in entries}
    countless = set(rules["no_article"])
    concepts = []
    for entry in entries:
        label, code = entry["label"], bare_code(entry["hexcode"])
        group = groups["groups"][str(entry["group"])]
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        if not _kept(label, group, subgroup, labels, rules):
            continue
        character = entry["emoji"].replace("\ufe0f", "")
        spoken = annotations.get(character, {})
        curated = [*([everyday[code]] if code in everyday else []), *rules["captions"].get(label, [])]
        phrases = captions(label, curated, spoken.get("tts", []), countless)
        words = dict.fromkeys([*entry.get("tags", []), *spoken.get("default", [])])
        concepts.append(Concept(code, files[code], label, group, phrases, tuple(words), code in everyday))
    return concepts


def _kept(label: str, group: str, subgroup: str, labels: Collection[str], rules: Mapping[str, Any]) -> bool:
    if group in (COMPONENTS, FLAGS):
        return False
    if label in rules["keep"] or label in rules["keep_gendered"]:
        return True
    if subgroup in rules["drop_subgroups"] or label in rules["drop"]:
        return False
    return neutral_form(label, labels) is None
