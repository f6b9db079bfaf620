from __future__ import annotations

import torch

from frolic.sampling.noise import MAX_SEED, picture_seed, sample_noise


def test_noise_does_not_depend_on_the_batch() -> None:
    batch = sample_noise((4, 3, 3), 11, range(5))
    for index in (0, 3):
        assert torch.equal(batch[index : index + 1], sample_noise((4, 3, 3), 11, [index]))
    assert torch.equal(batch[3:4], sample_noise((4, 3, 3), picture_seed(11, 3), [0]))


def test_noise_is_what_torch_gives_for_that_seed() -> None:
    expected = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(7))
    assert torch.equal(sample_noise((4, 3, 3), 7, [0])[0], expected)


def test_seeds_that_share_their_low_bits_differ() -> None:
    seeds = [7, 7 + 2**32, 7 + 2**33, 7 + 2**62, MAX_SEED]
    rows = [sample_noise((16,), seed, [0]) for seed in seeds]
    assert all(not torch.equal(a, b) for i, a in enumerate(rows) for b in rows[:i])


def test_the_largest_seed_wraps() -> None:
    assert picture_seed(MAX_SEED, 1) == 0
    assert torch.isfinite(sample_noise((8,), MAX_SEED, [0, 1])).all()


def test_noise_is_standard_normal() -> None:
    noise = sample_noise((4, 64, 64), 3, range(4))
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
