import torch

from frolic.data.cached import Variants, captioned, encode_sentences, encode_variants
from frolic.data.compose import PALETTE
from frolic.data.starter.concepts import Concept


def concept(name: str, captions: tuple[str, ...], everyday: bool) -> Concept:
    return Concept(name, name, name, "objects", captions, (), everyday)


CONCEPTS = [concept("a", ("a cup", "cup"), True), concept("b", ("a hat",), False)]


def encode(texts):
    """Each sentence's states are its number of letters, as many tokens as it has words."""
    longest = max(len(t.split()) for t in texts)
    mask = torch.tensor([[i < len(t.split()) for i in range(longest)] for t in texts])
    states = torch.tensor([float(len(t)) for t in texts])[:, None, None].expand(-1, longest, 3)
    return states, mask


def source(**changes):
    sprites = torch.randint(0, 256, (2, 4, 8, 8), dtype=torch.uint8)
    latents = encode_variants(sprites, 16, Variants(plain=2, coloured=1), lambda x: x[:, :, ::4, ::4])
    settings = {"everyday_weight": 3.0, "plain_share": 0.5, "tokens": 6, "scaling_factor": 2.0} | changes
    return captioned(CONCEPTS, latents, encode, **settings)


def test_sentences_are_packed_and_unpacked():
    texts = encode_sentences(["one", "one two three", "one two"], encode, batch=2)
    states, mask = texts.rows(torch.tensor([2, 0, 1]), 3)
    assert mask.sum(dim=1).tolist() == [2, 1, 3]
    assert states[:, 0, 0].tolist() == [7, 3, 13]
    assert bool((states[~mask] == 0).all())


def test_a_picture_comes_with_a_caption_of_its_concept_and_background():
    data = source()
    batch = data.batch(0, 200, torch.Generator().manual_seed(0))
    assert batch["latents"].shape == (200, 3, 4, 4)
    assert bool((batch["latents"].abs() <= 2).all()), "pixels in [-1, 1], times the scaling factor"
    words = batch["mask"].sum(dim=1)
    # "a cup", "cup" and "a hat" on white; with "on a blue background" four more words.
    assert set(words.tolist()) == {1, 2, 5, 6}


def test_shares_and_weights():
    data = source(plain_share=1.0, everyday_weight=9.0)
    batch = data.batch(0, 500, torch.Generator().manual_seed(0))
    words = batch["mask"].sum(dim=1)
    assert set(words.tolist()) == {1, 2}, "a plain share of 1 leaves no coloured background"
    letters = batch["text"][:, 0, 0]
    hats = ((letters == len("a hat")) & (words == 2)).float().mean()
    cups = (letters == len("cup")).float().mean()
    assert 0.35 < cups < 0.55, "nine parts in ten are cups, by two captions of which one has three letters"
    assert hats > 0.5


def test_batches_depend_on_the_generator_alone():
    data = source()
    first, second = (data.batch(step, 8, torch.Generator().manual_seed(7)) for step in (0, 5))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_variants_cover_every_background_of_every_concept():
    latents = source().latents
    plain = list(PALETTE).index("white")
    for number in range(2):
        colours = latents.colour[latents.concept == number].tolist()
        assert colours.count(plain) == 2 and sorted(set(colours)) == list(range(len(PALETTE)))
