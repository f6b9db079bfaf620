"""Captions that are nearly true."""

from __future__ import annotations

import re
from random import Random

import pytest

from frolic.data.compose import PALETTE
from frolic.data.mistaken import mistaken
from frolic.data.phrases import NUMBERS
from frolic.data.scenes import Cast, scene
from small_pack import small_concepts


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        (
            "a cat to the left of a dog",
            {"a cat to the right of a dog", "a cat to the left of a cat", "a dog to the left of a dog"},
        ),
        ("a dog right of a cat", {"a dog left of a cat", "a dog right of a dog", "a cat right of a cat"}),
        (
            "a cat on the left and a dog on the right",
            {
                "a cat on the right and a dog on the left",
                "a cat on the left and a cat on the right",
                "a dog on the left and a dog on the right",
            },
        ),
        ("a cat above a dog", {"a cat below a dog", "a cat above a cat", "a dog above a dog"}),
        ("a cat under a dog", {"a cat above a dog", "a cat under a cat", "a dog under a dog"}),
        (
            "a cat at the top and a dog at the bottom",
            {
                "a cat at the bottom and a dog at the top",
                "a cat at the top and a cat at the bottom",
                "a dog at the top and a dog at the bottom",
            },
        ),
        ("a cat in front of a dog", {"a cat behind a dog", "a cat in front of a cat", "a dog in front of a dog"}),
        ("a dog behind a cat", {"a dog in front of a cat", "a dog behind a dog", "a cat behind a cat"}),
        (
            "a pair of jeans with a cup, on grass",
            {"a cup with a cup, on grass", "a pair of jeans with a pair of jeans, on grass"},
        ),
        (
            "an owl and a cat in the night sky",
            {"an owl and an owl in the night sky", "a cat and a cat in the night sky"},
        ),
        ("two cats", {"three cats", "four cats"}),
        ("3 cats", {"2 cats", "4 cats"}),
    ],
)
def test_what_is_changed_and_what_is_not(caption: str, wanted: set[str]) -> None:
    assert {mistaken(caption, Random(seed)) for seed in range(40)} == wanted


@pytest.mark.parametrize(
    "caption", ["a cat", "a lefty glove", "one cat", "two", "a blackbird", "an orangery", "a cat, a dog and a cup"]
)
def test_what_says_nothing_of_the_kind_has_no_mistaken_form(caption: str) -> None:
    assert all(mistaken(caption, Random(seed)) is None for seed in range(20))


def test_colours_are_others_or_change_places_with_the_right_article() -> None:
    made = {str(mistaken("a red cup and an orange kite", Random(seed))) for seed in range(400)}
    assert "an orange cup and a red kite" in made and "a teal cup and an orange kite" in made
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", text) for text in made)
    assert {text.split()[1] for text in made} == set(PALETTE) and len(made) == 2 * 11 + 1 + 2
    assert {mistaken("a red cup, red background", Random(seed)) for seed in range(400)} == {
        text for word in PALETTE if word != "red"
        for text in (f"{'an' if word == 'orange' else 'a'} {word} cup, red background", f"a red cup, {word} background")
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["single", "colour", "ground", "two", "count", "position"])
def test_no_mistaken_caption_is_one_of_the_scene_itself(kind: str) -> None:
    cast, told = Cast(small_concepts()), 0
    for seed in range(150):
        rng = Random(seed)
        shown = scene(cast, kind, rng)
        for caption in shown.captions:
            wrong = mistaken(caption, rng)
            told += wrong is not None
            assert wrong not in shown.captions
            if wrong and kind == "count" and wrong.split()[1:] == caption.split()[1:]:
                assert wrong.split()[0] not in (NUMBERS[len(shown.things)], str(len(shown.things)))
    assert told > 300 if kind in ("two", "position") else told > 100 or kind == "single"
