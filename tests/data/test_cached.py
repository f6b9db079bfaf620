from __future__ import annotations

import random

import torch

from frolic.data.cached import Bucket, CaptionedLatents, Captions, TextSet, encode_sentences

TOKENS = 6


def code(text: str) -> float:
    """A number that no other sentence of these tests has."""
    return float(sum(ord(letter) * (place + 1) for place, letter in enumerate(text)) % 251)


def encode(texts):
    """Each sentence's states are its number, as many tokens as it has words."""
    longest = max(len(t.split()) for t in texts)
    mask = torch.tensor([[i < len(t.split()) for i in range(longest)] for t in texts])
    states = torch.tensor([code(t) for t in texts])[:, None, None].expand(-1, longest, 3)
    return states, mask


def sentences(count: int) -> list[str]:
    """Of one to ``TOKENS`` words, the short and the long ones mixed."""
    rng = random.Random(0)
    words = ["a", "at", "cup", "hats", "green", "kite"]
    found = {" ".join(rng.choices(words, k=rng.randint(1, TOKENS))): None for _ in range(4 * count)}
    distinct = {code(text): text for text in found}
    assert len(distinct) >= count
    return list(distinct.values())[:count]


def test_every_sentence_gets_its_own_states_back_whatever_its_length_and_batch():
    texts = sentences(40)
    assert [len(t) for t in texts] != sorted(len(t) for t in texts), "encoding sorts by length"
    whole = encode_sentences(texts, encode, batch=7)
    assert int(whole.length.sum()) == len(whole.flat), "no padding is stored"
    states, mask = whole.rows(torch.arange(len(texts)), TOKENS)
    assert mask.sum(dim=1).tolist() == [len(t.split()) for t in texts]
    assert states[:, 0, 0].tolist() == [code(t) for t in texts]
    assert bool((states == states[:, :1]).all(dim=-1)[mask].all()) and bool((states[~mask] == 0).all())
    single = encode_sentences(texts, encode, batch=1)
    assert all(torch.equal(tensor, single.tensors()[name]) for name, tensor in whole.tensors().items())


def test_longer_sentences_are_cut_and_the_last_one_ends_where_the_rows_end():
    texts = encode_sentences(["one two three", "one", "one two"], encode)
    states, mask = texts.rows(torch.tensor([0, 1]), 2)
    assert mask.tolist() == [[True, True], [True, False]] and states.shape == (2, 2, 3)
    last = TextSet(texts.flat, texts.start, texts.length).rows(texts.start.argmax()[None], 9)
    assert int(last[1].sum()) == 3, "rows beyond the end are padding, not an error"


CAPTIONS = [["a cup", "cup"], ["a kite"], ["a hat", "hat", "a green hat"]]


def captions() -> Captions:
    texts = list(dict.fromkeys(text for each in CAPTIONS for text in each))
    random.Random(1).shuffle(texts)
    return Captions.of(CAPTIONS, texts, encode_sentences(texts, encode), TOKENS)


def test_captions_belong_to_their_pictures():
    found = captions()
    for picture, own in enumerate(CAPTIONS):
        rows = torch.full((len(own),), picture)
        states, mask = found.rows(rows, torch.arange(len(own)))
        assert states[:, 0, 0].tolist() == [code(t) for t in own]
        assert mask.sum(dim=1).tolist() == [len(t.split()) for t in own]


def test_any_takes_each_caption_of_a_picture_about_as_often():
    drawn = captions().any(torch.tensor([2, 0, 1]).repeat(3000), torch.Generator().manual_seed(0)).view(-1, 3)
    for column, count in zip(drawn.T, (3, 2, 1), strict=True):
        share = column.bincount(minlength=count).float() / len(column)
        assert len(share) == count and float((share - 1 / count).abs().max()) < 0.04


def source() -> CaptionedLatents:
    """Two shapes; each picture's latents are its number."""
    numbers = torch.arange(3).half()[:, None, None, None]
    wide = Bucket(numbers[:2].expand(-1, 4, 2, 3), 0, 0.25)
    tall = Bucket(numbers[2:].expand(-1, 4, 3, 2), 2, 0.75)
    return CaptionedLatents((wide, tall), captions(), scaling_factor=2.0)


def test_a_batch_has_one_shape_and_captions_that_are_true_of_its_pictures():
    data, shapes = source(), []
    for step in range(400):
        batch = data.batch(step, 5, torch.Generator().manual_seed(step))
        shapes.append(tuple(batch["latents"].shape))
        assert batch["text"].shape == (5, TOKENS, 3) and batch["mask"].shape == (5, TOKENS)
        for latents, text, mask in zip(batch["latents"], batch["text"], batch["mask"], strict=True):
            picture = int(latents[0, 0, 0]) // 2
            assert float(text[0, 0]) in [code(t) for t in CAPTIONS[picture]], "the scaling factor is 2"
            assert bool(mask[0])
    assert set(shapes) == {(5, 4, 2, 3), (5, 4, 3, 2)}
    assert abs(shapes.count((5, 4, 2, 3)) / len(shapes) - 0.25) < 0.07


def test_batches_depend_on_the_generator_alone():
    data = source()
    first, second = (data.batch(step, 8, torch.Generator().manual_seed(7)) for step in (0, 5))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = data.batch(0, 8, torch.Generator().manual_seed(8))
    assert not all(first[n].shape == other[n].shape and torch.equal(first[n], other[n]) for n in first)
