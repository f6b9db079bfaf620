from __future__ import annotations

import pytest

from frolic.data.starter.captions import captions, plain, with_article


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dog face", "a dog face"),
        ("apple", "an apple"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("ufo", "a ufo"),
        ("hourglass", "an hourglass"),
        ("x-ray", "an x-ray"),
        ("the sun", "the sun"),
        ("a slice of pizza", "a slice of pizza"),
    ],
)
def test_article(name: str, expected: str) -> None:
    assert with_article(name) == expected


def test_plain_has_no_typographic_signs() -> None:
    assert plain("Man\u2019s  Shoe") == "man's shoe"
    assert plain("kiss: woman, man") == "kiss woman, man"


def test_label_gets_an_article_then_other_names_then_the_bare_name() -> None:
    assert captions("Dog Face", [], ["dog head"], ()) == ("a dog face", "a dog head", "dog face")


def test_plural_and_mass_nouns_stay_bare() -> None:
    assert captions("chopsticks", [], ["chopsticks"], {"chopsticks"}) == ("chopsticks",)


def test_curated_phrasings_win_and_only_a_leading_determiner_is_cut() -> None:
    assert captions("x", ["a vulcan salute", "a hand"], ["label"], ()) == ("a vulcan salute", "a hand", "vulcan salute")


def test_never_more_than_four_and_never_twice() -> None:
    phrases = captions("x", ["a", "b", "b", "c", "d", "e"], [], ())
    assert phrases == ("a", "b", "c", "d")
