"""Words that mean nothing that is drawn, and what they come nearest to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.data.starter import near as module
from frolic.data.starter.concepts import Concept
from frolic.data.starter.near import near
from frolic.data.starter.wordnet import WordNet

CONCEPTS = [
    Concept("1", "dog", "animals-nature", ("a dog",), synonyms=("a domestic dog",), noun="dog"),
    Concept("2", "wolf", "animals-nature", ("a wolf",), noun="wolf"),
    Concept("3", "cup", "food-drink", ("a cup",), noun="cup"),
]
PLACES = {  # [is a dog, is a wolf, is a cup]
    "a dog": (1.0, 0.0, 0.0), "a domestic dog": (0.9, 0.1, 0.0), "a wolf": (0.0, 1.0, 0.0), "a cup": (0.0, 0.0, 1.0),
    "a corgi": (0.9, 0.05, 0.05), "a terrier": (1.0, 0.0, 0.05), "a coyote": (0.2, 1.0, 0.0),
    "a husky": (0.7, 0.69, 0.0), "a puppy": (1.0, 0.0, 0.0), "an idea": (0.58, 0.57, 0.58),
}  # fmt: skip


def teacher(texts: Sequence[str]) -> Tensor:
    return F.normalize(torch.tensor([PLACES.get(text, (0.5, 0.5, 0.5)) for text in texts]), dim=1)


def found(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return dict(near(CONCEPTS, words, WordNet({}, {}, {}), teacher))


def test_words_go_to_the_concept_they_are_most_like_the_most_alike_first() -> None:
    assert found(["corgi", "coyote", "terrier"]) == {"1": ("a terrier", "a corgi"), "2": ("a coyote",)}


def test_what_is_called_so_already_between_two_or_like_none_is_left_out() -> None:
    assert found(["dog", "domestic dog", "husky", "idea"]) == {}


def test_words_that_are_kept_for_evaluation_are_never_among_them() -> None:
    assert found(["puppy", "puppies"]) == {}


def test_a_concept_gets_no_more_than_the_most_alike(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    assert found(["corgi", "terrier"]) == {"1": ("a terrier",)}


def test_without_words_or_with_one_concept() -> None:
    assert found([]) == {}
    assert near([], ["corgi"], WordNet({}, {}, {}), teacher) == {}
    assert near(CONCEPTS[2:], ["corgi"], WordNet({}, {}, {}), teacher) == {}
