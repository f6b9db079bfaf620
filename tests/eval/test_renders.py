from __future__ import annotations

import pytest
import torch
from torch import Tensor

from frolic.eval.renders import HELD_OUT_BANDS, HELD_OUT_KINDS, TRAIN_KINDS, Dice, premultiplied, render


def dice(seed: int, held_out: bool) -> Dice:
    return Dice(torch.Generator().manual_seed(seed), held_out)


@pytest.mark.parametrize("held_out", [False, True])
def test_render_is_a_function_of_the_generator(shapes: Tensor, held_out: bool) -> None:
    cuts = premultiplied(shapes, 64)
    first, again, other = (render(cuts, dice(seed, held_out), 64) for seed in (1, 1, 2))
    assert first.shape == (6, 3, 64, 64)
    assert first.min() >= -1 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_splits_share_no_parameter_and_no_background() -> None:
    train = set((dice(0, False).uniform(4000) * 10).int().tolist())
    held_out = set((dice(0, True).uniform(4000) * 10).int().tolist())
    assert held_out == set(HELD_OUT_BANDS)
    assert train == set(range(10)) - held_out
    assert not set(TRAIN_KINDS) & set(HELD_OUT_KINDS)


def test_premultiplied_halves_the_side_and_hides_what_is_transparent(shapes: Tensor) -> None:
    cut = premultiplied(shapes, 64)
    assert cut.shape == (6, 4, 80, 80)
    assert cut[:, :, 0, 0].abs().max() == 0
    assert torch.allclose(cut[0, :, 40, 40], torch.tensor([230 / 255, 30 / 255, 30 / 255, 1.0]))
