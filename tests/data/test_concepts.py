from __future__ import annotations

from typing import Any

import pytest

from frolic.data.compose import PALETTE
from frolic.data.starter.concepts import (
    FLUENT,
    Concept,
    bare_code,
    curation,
    everyday_prompts,
    neutral_form,
    select,
)
from frolic.data.starter.synonyms import uses_unseen

GROUPS = {"groups": {"0": "people-body", "1": "flags", "2": "objects"}, "subgroups": {"0": "role", "1": "clock"}}


def entry(label: str, code: str, group: int = 2, subgroup: int = 0, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    character = "".join(chr(int(part, 16)) for part in code.split("-"))
    return {
        "label": label,
        "hexcode": code,
        "emoji": character,
        "group": group,
        "subgroup": subgroup,
        "tags": list(tags),
    }


RULES: dict[str, Any] = {
    "drop_subgroups": ["clock"],
    "keep": ["one o'clock"],
    "keep_gendered": ["woman elf"],
    "drop": ["ox"],
    "no_article": ["socks"],
    "captions": {"hot beverage": ["a cup of coffee"]},
    "no_noun_subgroups": ["clock"],
    "no_noun": ["cloud"],
    "nouns": {"red car": "car"},
    "no_plural": ["lettuce"],
    "recolour": {"1f697": "red"},
    "icon": {},
    "clip": {},
}


def chosen(emoji: list[dict[str, Any]], everyday: dict[str, str] | None = None, **rules: Any) -> list[Concept]:
    sprites = [item["hexcode"].lower() for item in emoji]
    return [pick.concept for pick in select(emoji, GROUPS, {}, sprites, {**RULES, **rules}, everyday or {})]


def test_flags_gendered_twins_listed_labels_and_subgroups_are_left_out() -> None:
    emoji = [
        entry("flag: Chad", "1F1F9", group=1),
        entry("pilot", "1F9D1", group=0),
        entry("man pilot", "1F468", group=0),
        entry("woman elf", "1F9DD", group=0),
        entry("ox", "1F402"),
        entry("one o'clock", "1F550", subgroup=1),
        entry("two o'clock", "1F551", subgroup=1),
    ]
    assert [concept.name for concept in chosen(emoji)] == ["pilot", "woman elf", "one o'clock"]


def test_an_entry_without_a_sprite_is_left_out_and_presentation_selectors_do_not_matter() -> None:
    emoji = [entry("red heart", "2764"), entry("lime", "1F34B")]
    picks = select(emoji, GROUPS, {}, ["2764-fe0f"], RULES, {})
    assert [(pick.concept.code, pick.source, pick.file) for pick in picks] == [("2764", FLUENT, "2764-fe0f")]


def test_captions_keywords_and_the_everyday_prompt() -> None:
    emoji = [entry("hot beverage", "2615", tags=("drink", "tea")), entry("socks", "1F9E6")]
    spoken = {"☕": {"default": ["tea", "coffee"], "tts": ["hot beverage"]}}
    picks = select(emoji, GROUPS, spoken, ["2615", "1f9e6"], RULES, {"2615": "a mug of coffee"})
    coffee, socks = (pick.concept for pick in picks)
    assert coffee.captions == ("a mug of coffee", "a cup of coffee", "mug of coffee")
    assert coffee.keywords == ("drink", "tea", "coffee")
    assert coffee.everyday and not socks.everyday
    assert socks.captions == ("socks",)


def test_a_gendered_role_is_phrased_from_the_neutral_one() -> None:
    emoji = [entry("pilot", "1F9D1", group=0), entry("woman pilot", "1F469", group=0)]
    woman = chosen(emoji, keep_gendered=["woman pilot"], captions={"pilot": ["a pilot"]})[1]
    assert woman.captions == ("a woman pilot", "a female pilot", "woman pilot")


def test_pictures_of_other_collections_follow_the_emoji() -> None:
    extra = {
        "icon": {"objects": {"Safe": ["a red safe", "a safe"]}},
        "clip": {"food-drink": {"a/plum.svg": ["a plum"]}},
    }
    picks = select([entry("ring", "1F48D")], GROUPS, {}, ["1f48d"], {**RULES, **extra}, {})
    assert [(pick.source, pick.file) for pick in picks[1:]] == [("icon", "Safe"), ("clip", "a/plum.svg")]
    safe, plum = (pick.concept for pick in picks[1:])
    assert (safe.code, safe.group, safe.captions) == ("icon-red-safe", "objects", ("a red safe", "a safe", "red safe"))
    assert (plum.code, plum.noun, plum.plural) == ("clip-plum", "plum", "plums")


def test_no_two_concepts_have_the_same_first_caption_and_forbidden_words_are_not_used() -> None:
    emoji = [entry("rabbit", "1F407"), entry("hare", "1F430"), entry("bunny", "1F98A")]
    rules = {**RULES, "captions": {"hare": ["a rabbit", "a rabbit face"]}}
    picks = select(emoji, GROUPS, {}, ["1f407", "1f430", "1f98a"], rules, {}, lambda phrase: "bunny" in phrase)
    assert [pick.concept.captions[0] for pick in picks] == ["a rabbit", "a rabbit face"]


def test_nouns_plurals_and_colours_for_scenes() -> None:
    emoji = [
        entry("red car", "1F697"),
        entry("cloud", "2601"),
        entry("lettuce", "1F96C"),
        entry("socks", "1F9E6"),
        entry("sheep with a hat", "1F411"),
        entry("one o'clock", "1F550", subgroup=1),
    ]
    found = {concept.name: (concept.noun, concept.plural, concept.colour) for concept in chosen(emoji)}
    assert found == {
        "red car": ("car", "cars", "red"),
        "cloud": ("", "", ""),
        "lettuce": ("lettuce", "", ""),
        "socks": ("", "", ""),
        "sheep with a hat": ("", "", ""),
        "one o'clock": ("", "", ""),
    }


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("woman pilot", "pilot"),
        ("man running", "person running"),
        ("women wrestling", "people wrestling"),
        ("man", None),
    ],
)
def test_neutral_form(label: str, expected: str | None) -> None:
    assert neutral_form(label, {"pilot", "person running", "people wrestling", "man"}) == expected


def test_bare_code() -> None:
    assert bare_code("2764-FE0F-200D-1F525") == "2764-200d-1f525"


def test_shipped_curation_is_consistent() -> None:
    rules = curation()
    assert not set(rules["drop"]) & (set(rules["keep"]) | set(rules["keep_gendered"]) | set(rules["captions"]))
    extra = [phrases for source in ("icon", "clip") for things in rules[source].values() for phrases in things.values()]
    for listed in (rules["captions"].values(), extra):
        first = [next((phrase for phrase in phrases if not uses_unseen(phrase)), "") for phrases in listed]
        assert len(first) == len(set(first)) and "" not in first
    phrases = [phrase for listed in (*rules["captions"].values(), *extra) for phrase in listed]
    assert all(phrase == phrase.lower().strip() and len(phrase.split()) <= 10 for phrase in phrases)
    assert set(rules["recolour"].values()) <= set(PALETTE)
    assert len(everyday_prompts()) == 200
