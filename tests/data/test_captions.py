from __future__ import annotations

import pytest

from frolic.data.starter.captions import captions, gendered, plain, plural, singular_noun, with_article


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
        ("one-piece swimsuit", "a one-piece swimsuit"),
        ("euro note", "a euro note"),
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


def test_forbidden_phrases_are_left_out_and_the_bare_name_follows_the_best_allowed_one() -> None:
    phrases = captions("x", ["a bunny", "a rabbit"], [], (), lambda phrase: "bunny" in phrase)
    assert phrases == ("a rabbit", "rabbit")
    assert captions("bunny", [], [], (), lambda phrase: True) == ()


def test_phrases_about_a_man_or_a_woman() -> None:
    assert gendered("woman", ("a person rowing a boat", "person rowing a boat")) == ["a woman rowing a boat"]
    assert gendered("man", ("an artist", "artist")) == ["a man artist", "a male artist"]


def test_the_noun_is_the_first_phrase_with_an_article() -> None:
    assert singular_noun(("glasses", "a pair of glasses", "an eyeglass")) == "pair of glasses"
    assert singular_noun(("the sun", "broccoli")) == ""


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("red panda", "red pandas"),
        ("slice of pizza", "slices of pizza"),
        ("loaf of bread", "loaves of bread"),
        ("kitchen knife", "kitchen knives"),
        ("gingerbread man", "gingerbread men"),
        ("jellyfish", "jellyfish"),
        ("water buffalo", "water buffaloes"),
        ("cherry", "cherries"),
        ("toy", "toys"),
        ("box", "boxes"),
        ("jack-o-lantern", "jack-o-lanterns"),
        ("t-rex", "t-rexes"),
        ("mouse", "mice"),
    ],
)
def test_plural(noun: str, expected: str) -> None:
    assert plural(noun) == expected
