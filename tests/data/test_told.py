"""Batches from which right captions can be told from wrong ones."""

from __future__ import annotations

import torch
from torch import Tensor

from frolic.data.cached import Bucket, CaptionedLatents, Captions, encode_sentences
from frolic.data.told import ToldApart, embedded, mistakes

CAPTIONS = (("a red cup", "a cup that is red"), ("a cup",), ("two cups", "2 cups"), ("a red cup",))
SENTENCES = list(dict.fromkeys(text for each in CAPTIONS for text in each))
MEANINGS = torch.tensor([7, 8, 9, 7])


def encode(texts: list[str]) -> tuple[Tensor, Tensor]:
    """States whose first number is the text's length."""
    mask = torch.arange(6) < torch.tensor([len(text.split()) for text in texts])[:, None]
    return torch.tensor([float(len(text)) for text in texts])[:, None, None].expand(-1, 6, 2) * mask[..., None], mask


def told() -> tuple[ToldApart, list[str]]:
    latents = torch.arange(4.0).half()[:, None, None, None].expand(-1, 1, 2, 2)
    captions = Captions.of(CAPTIONS, SENTENCES, encode_sentences(SENTENCES, encode), 6)
    wrongs, wrong_of = mistakes(SENTENCES)
    source = CaptionedLatents([Bucket(latents, 0, 1.0)], captions, 1.0)
    return ToldApart(source, MEANINGS, encode_sentences(wrongs, encode), wrong_of), wrongs


def test_each_sample_says_which_caption_it_has_and_a_mistaken_form_of_it() -> None:
    data, wrongs = told()
    seen: set[tuple[int, str]] = set()
    for step in range(60):
        batch = data.batch(step, 5, torch.Generator().manual_seed(step))
        plain = data.source.batch(step, 5, torch.Generator().manual_seed(step))
        assert all(torch.equal(batch[name], value) for name, value in plain.items()), "as without it"
        for latents, sentence, wrong, meaning, text in zip(
            batch["latents"], batch["sentence"], batch["wrong"], batch["meaning"], batch["text"], strict=True
        ):
            picture, said = int(latents[0, 0, 0]), SENTENCES[int(sentence)]
            assert said in CAPTIONS[picture] and float(text[0, 0]) == len(said) and int(meaning) == MEANINGS[picture]
            assert (int(wrong) < 0) == (said == "a cup")
            if int(wrong) >= 0:
                assert wrongs[int(wrong)].split()[-1] == said.split()[-1] or "red" in said
                seen.add((int(sentence), wrongs[int(wrong)]))
    assert len({text for _, text in seen}) > len({sentence for sentence, _ in seen}), "more than one form of some"


def test_a_sentence_means_what_its_pictures_do() -> None:
    data, _ = told()
    wanted = {"a red cup": 7, "a cup that is red": 7, "a cup": 8, "two cups": 9, "2 cups": 9}
    assert dict(zip(SENTENCES, data.meaning_of.tolist(), strict=True)) == wanted


def test_mistaken_forms_are_the_same_every_time() -> None:
    first, second = mistakes(SENTENCES), mistakes(SENTENCES[::-1])
    assert first[0] == mistakes(SENTENCES)[0] and set(first[0]) == set(second[0])
    assert mistakes(["a cup"])[0] == [] and mistakes(["a cup"])[1].tolist() == [[-1, -1]]


def test_all_sentences_are_embedded_in_their_order() -> None:
    texts = encode_sentences(SENTENCES, encode)
    found = embedded(texts, 6, lambda states, mask: states[:, 0], batch=2)
    assert found[:, 0].tolist() == [float(len(text)) for text in SENTENCES]
