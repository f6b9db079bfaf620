from __future__ import annotations

import torch

from frolic.data.starter.concepts import Concept
from frolic.data.starter.targets import split, targets
from frolic.data.starter.texts import nouns, sentences, train_tokenizer, vocabulary
from frolic.data.starter.wordnet import Synset, WordNet
from frolic.train.tasks.distillation import source

CONCEPTS = [
    Concept("1", "dog", "animals-nature", ("a dog",), keywords=("pet",), noun="dog", plural="dogs"),
    Concept("2", "cup of tea", "food-drink", ("a cup of tea", "a teacup"), noun="cup of tea"),
]


def net() -> WordNet:
    animal = Synset("animal", "n", "animal", ("animal",), (), "a living thing")
    dog = Synset("dog", "n", "animal", ("dog",), ("animal",), "an animal that barks")
    puppy = Synset("puppy", "n", "animal", ("puppy",), ("dog",), "a young dog; small")
    lily = Synset("lily", "n", "plant", ("water lily",), (), "a plant of ponds")
    idea = Synset("idea", "n", "", ("idea",), (), "a thought")
    synsets = {one.key: one for one in (animal, dog, puppy, lily, idea)}
    senses = {(one.words[0], "n"): (one.key,) for one in synsets.values()}
    return WordNet(synsets, senses, {("dog", "n"): 9, ("puppy", "n"): 2, ("idea", "n"): 3, ("water lily", "n"): 1})


def pieces(words) -> list[int]:
    """Of a tokenizer that does not know "animal" and "water lily"."""
    return [2 if word in ("animal", "water lily") else 1 for word in words]


def written(seed: int = 0) -> list[str]:
    return sentences(CONCEPTS, net(), vocabulary(net(), pieces), 200, ["A scene's own caption"], seed)


def test_a_vocabulary_by_what_can_be_drawn_and_how_common_it_is() -> None:
    words = vocabulary(net(), pieces)
    assert words.common == ("dog", "puppy", "water lily")
    assert words.rare == ("animal",)
    assert words.plain == ("idea",)
    assert words.single == ("dog", "puppy")
    assert "animal" in vocabulary(net(), lambda some: [1] * len(some)).common, "never met, but a word in use"
    assert vocabulary(net(), lambda some: [4] * len(some)).rare == ()


def test_sentences_are_fixed_distinct_and_mix_known_with_other_words() -> None:
    first = written()
    assert first == written() != written(seed=1)
    assert len(set(first)) == len(first)
    assert {"a dog", "a puppy", "a water lily", "dogs", "idea", "a young dog", "", "a scene's own caption"} <= set(
        first
    )
    assert any("a puppy" in text and ("a dog" in text or "a cup of tea" in text) for text in first)
    assert not any("{" in text or "a orange background" in text for text in first)


def test_units_are_words_or_pairs() -> None:
    text = "a t-shirt and a water lily"
    assert [unit for _, _, unit in split(text, {"water lily"})] == ["a", "t-shirt", "and", "a", "water lily"]
    assert all(text[start:end] == unit for start, end, unit in split(text, {"water lily"}))


def axes(texts) -> torch.Tensor:
    """A teacher to whom all texts are equally unlike."""
    return torch.eye(64)[: len(texts)]


def test_a_word_without_a_picture_moves_to_what_it_is_a_kind_of() -> None:
    texts = ["a puppy", "a dog", "a puppy and a dog", "puppy"]
    goal = targets(texts, nouns(CONCEPTS), net(), axes)
    puppy, dog, both, bare = goal.sentences.float()
    assert abs(float(puppy @ dog) - 0.6 / (1 + 0.6**2 + 0.3**2) ** 0.5) < 1e-2
    assert float(both @ dog) > 0.2, "half as far: one of two nouns"
    assert float(bare @ dog) > 0.4
    assert float(dog @ torch.eye(64)[1]) > 0.999, "drawn things stay where the teacher puts them"
    assert [unit for _, _, unit in goal.places[0]] == [unit for _, _, unit in goal.places[2]][:2]
    for vectors in (goal.sentences, goal.units):
        assert torch.allclose(vectors.float().norm(dim=-1), torch.ones(len(vectors)), atol=1e-2)


def test_tokens_belong_to_their_words() -> None:
    texts = ["a puppy and a dog", "puppy's idea", ""]
    goal = targets(texts, nouns(CONCEPTS), net(), axes)
    tokenizer = train_tokenizer(texts, 262)  # nearly bytes: words of many tokens
    tokenizer.enable_truncation(16)
    data = source(tokenizer.encode_batch(texts), goal, [4], 16, [False] * 3)
    pieces = tokenizer.encode(texts[0]).tokens
    word = [
        "".join(p for p, w in zip(pieces, data.place[0].tolist(), strict=False) if w == at).replace("Ġ", "")
        for at in range(5)
    ]
    assert word[:4] == ["a", "puppy", "and", "a"] and "dog".startswith(word[4]), "the end may be cut"
    assert data.place[0, 0] == -1, "<bos> is no word's"
    assert data.words[0].tolist()[:2] == [unit for _, _, unit in goal.places[0]][:2]
    assert (data.place[2] == -1).all() and data.sizes[2] >= 1


def test_a_batch_is_a_function_of_its_generator_and_of_like_lengths() -> None:
    texts = ["a puppy", "a dog", "dog", "a dog and a dog and a dog and a dog and a dog"]
    goal = targets(texts, nouns(CONCEPTS), net(), axes)
    tokenizer = train_tokenizer(texts * 9, 300)
    data = source(tokenizer.encode_batch(texts), goal, [5], 24, [False] * 4)
    shapes = set()
    for seed in range(8):
        one, two = (data.batch(0, 6, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert one.keys() == {"ids", "mask", "place", "teacher", "word_targets"}
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert bool((one["mask"].sum(dim=1) > 0).all())
        shapes.add(tuple(one["ids"].shape))
    assert shapes == {(6, 5), (6, 24)}


def test_what_is_met_often_and_what_gets_a_token() -> None:
    texts = ["a puppy", "a dog"]
    goal = targets(texts, nouns(CONCEPTS), net(), axes)
    corpus = [*texts, *["abcd", "bcde"] * 9]
    without, tokenizer = (train_tokenizer(corpus, 266, single) for single in ([], ["puppy"]))
    assert len(tokenizer.encode("puppy").ids) < len(without.encode("puppy").ids)
    data = source(tokenizer.encode_batch(texts), goal, [], 24, [False, True])
    batch = data.batch(0, 4000, torch.Generator().manual_seed(0))
    share = (batch["teacher"].float() @ goal.sentences[1].float() > 0.9).float().mean()
    assert abs(float(share) - 0.8) < 0.03, "4 of 5"
