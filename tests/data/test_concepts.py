from __future__ import annotations

from typing import Any

import pytest

from frolic.data.starter.concepts import bare_code, curation, everyday_prompts, neutral_form, select

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
}


def chosen(emoji: list[dict[str, Any]], everyday: dict[str, str] | None = None) -> list[Any]:
    sprites = [item["hexcode"].lower() for item in emoji]
    return select(emoji, GROUPS, {}, sprites, RULES, everyday or {})


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
    concepts = select(emoji, GROUPS, {}, ["2764-fe0f"], RULES, {})
    assert [(concept.code, concept.file) for concept in concepts] == [("2764", "2764-fe0f")]


def test_captions_keywords_and_the_everyday_prompt() -> None:
    emoji = [entry("hot beverage", "2615", tags=("drink", "tea")), entry("socks", "1F9E6")]
    spoken = {"☕": {"default": ["tea", "coffee"], "tts": ["hot beverage"]}}
    coffee, socks = select(emoji, GROUPS, spoken, ["2615", "1f9e6"], RULES, {"2615": "a mug of coffee"})
    assert coffee.captions == ("a mug of coffee", "a cup of coffee", "mug of coffee")
    assert coffee.keywords == ("drink", "tea", "coffee")
    assert coffee.everyday and not socks.everyday
    assert socks.captions == ("socks",)


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
    phrases = [phrase for phrases in rules["captions"].values() for phrase in phrases]
    assert len(phrases) == len(set(phrases))
    assert all(phrase == phrase.lower().strip() for phrase in phrases)
    assert len(everyday_prompts()) == 200
