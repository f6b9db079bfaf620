from __future__ import annotations

import pytest

from frolic.data.starter.synonyms import Phrasebook, plural, unseen, uses_unseen
from frolic.data.starter.wordnet import Synset, WordNet


@pytest.mark.parametrize(
    "phrase", ["a puppy", "Two Puppies", "a dog and a puppy", "water lilies", "a band-aid", "a big water lily on grass"]
)
def test_unseen_words_are_found(phrase: str) -> None:
    assert uses_unseen(phrase)


@pytest.mark.parametrize("phrase", ["a dog", "a puppet", "a cabinet", "water", "a lily", "a lily in water", ""])
def test_other_words_are_not(phrase: str) -> None:
    assert not uses_unseen(phrase)


def test_unseen_words_have_no_article() -> None:
    assert {"puppy", "automobile", "crimson"} <= unseen()
    assert not any(word.startswith(("a ", "an ", "the ")) for word in unseen())


def test_plurals() -> None:
    assert [plural(n) for n in ("dog", "puppy", "box", "fireman", "toy")] == [
        "dogs",
        "puppies",
        "boxes",
        "firemen",
        "toys",
    ]


def synset(key: str, words: str, field: str = "artifact", up: str = "", gloss: str = "") -> Synset:
    return Synset(key, "n", field, tuple(words.split(",")), tuple(up.split()), gloss)


SYNSETS = [
    synset("vehicle", "vehicle"),
    synset("car", "car,auto,motorcar,machine,automobile", up="vehicle"),
    synset("bus", "bus", up="vehicle"),
    synset("engine", "machine,auto engine"),
    synset("bat", "bat,chiropteran", "animal"),
    synset("club", "bat,cudgel"),
    synset("fairy", "fairy,ugly word", "person", gloss="offensive term"),
]
SENSES = {
    "vehicle": ("vehicle",),
    "car": ("car",),
    "auto": ("car",),
    "motorcar": ("car",),
    "automobile": ("car",),
    "machine": ("engine", "car"),
    "bus": ("bus",),
    "bat": ("bat", "club"),
    "chiropteran": ("bat",),
    "cudgel": ("club",),
    "fairy": ("fairy",),
    "ugly word": ("fairy",),
}


def book(*names: str, keywords: list[list[str]] | None = None) -> Phrasebook:
    counts = {(word, "n"): 5 for word in SENSES if word != "motorcar"}
    senses = {(word, "n"): keys for word, keys in SENSES.items()}
    return Phrasebook(WordNet({s.key: s for s in SYNSETS}, senses, counts), names, keywords or [])


def test_synonyms_of_its_own_and_commonest_meaning_only() -> None:
    assert book("a car").phrases("a car", [], "travel-places") == ("an auto", "a motorcar")
    # "machine" is more often an engine, "automobile" is asked for by the suite


def test_a_more_general_word_only_if_it_is_this_concept_s_alone() -> None:
    assert "a vehicle" in book("a car", keywords=[["vehicle"]]).phrases("car", ["vehicle"], "travel-places")
    shared = book("a car", "a bus", keywords=[["vehicle"], ["vehicle"]])
    assert "a vehicle" not in shared.phrases("car", ["vehicle"], "travel-places")


def test_the_group_says_which_meaning_is_meant_and_rude_ones_are_left_out() -> None:
    assert book("bat").phrases("bat", [], "animals-nature") == ("a chiropteran",)
    assert book("bat").phrases("bat", [], "activities") == ()
    assert book("fairy").phrases("fairy", [], "people-body") == ()


def test_another_concept_s_name_is_not_taken() -> None:
    assert "an auto" not in book("a car", "an auto").phrases("car", [], "travel-places")
