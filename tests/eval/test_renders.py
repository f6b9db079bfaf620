from __future__ import annotations

import pytest
import torch
from torch import Tensor

from frolic.eval.dice import HELD_OUT_BANDS, Dice
from frolic.eval.grounds import HELD_OUT_KINDS, PLAIN, SCENIC, TRAIN_KINDS, ground, landscapes
from frolic.eval.layouts import Cuts, Put, compose, overlap, scatter
from frolic.eval.recolour import COLOURS, dominant_hue, recolour, to_hsv, to_rgb
from frolic.eval.renders import crowd, premultiplied, render


def dice(seed: int, held_out: bool = False) -> Dice:
    return Dice(torch.Generator().manual_seed(seed), held_out)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("crowded", [False, True])
def test_render_is_a_function_of_the_generator(shapes: Tensor, held_out: bool, crowded: bool) -> None:
    cuts = premultiplied(shapes, 64)

    def draw(seed: int) -> Tensor:
        numbers = dice(seed, held_out)
        return crowd(cuts, numbers, 64, 0.5, 0.7) if crowded else render(cuts, numbers, 64, 0.5)

    first, again, other = draw(1), draw(1), draw(2)
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


def test_grounds_are_labelled() -> None:
    x, label = ground(40, 32, dice(0), scenic=1.0)
    assert x.shape == (40, 3, 32, 32) and x.min() >= 0 and x.max() <= 1
    assert set(label.tolist()) == set(range(1, len(SCENIC) + 1))
    assert PLAIN in ground(40, 32, dice(0))[1]
    night, grass = landscapes(torch.tensor([1, 2]), 64, dice(3))
    assert night.mean() < 0.35
    assert (grass[1] > grass[2]).float()[-16:].mean() > 0.9, "green below"


def test_hue_goes_there_and_back() -> None:
    rgb = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(to_rgb(to_hsv(rgb)), rgb, atol=1e-5)


def test_recolouring_gives_every_colour_and_keeps_the_outline(shapes: Tensor) -> None:
    cut = premultiplied(shapes[:1], 64).expand(len(COLOURS), -1, -1, -1)
    hue = dominant_hue(cut)
    assert (hue.min() < 0.03) or (hue.min() > 0.97)
    dyed = recolour(cut, hue, torch.arange(len(COLOURS)), dice(0))
    assert torch.equal(dyed[:, 3], cut[:, 3])
    middle = dict(zip(COLOURS, dyed[:, :3, 40, 40].tolist(), strict=True))
    assert middle["green"][1] > max(middle["green"][0], middle["green"][2])
    assert middle["blue"][2] > max(middle["blue"][:2])
    assert min(middle["white"]) > 0.8 and max(middle["black"]) < 0.3
    assert torch.equal(dyed[:, :, 0, 0], cut[:, :, 0, 0])


def test_boxes_are_where_things_are(shapes: Tensor) -> None:
    cuts = Cuts(shapes)
    put = Put(row=1, x=0.3, y=0.6, scale=0.4)
    x = compose(cuts, [[put]], torch.zeros(1, 3, 200, 200), dice(0), clean=True)
    seen = x[0].sum(0) > 0.1
    columns, rows = seen.any(0).nonzero()[:, 0], seen.any(1).nonzero()[:, 0]
    left, top, right, bottom = cuts.box(put)
    assert columns.min() == pytest.approx(left * 200, abs=2) and columns.max() == pytest.approx(right * 200, abs=2)
    assert rows.min() == pytest.approx(top * 200, abs=2) and rows.max() == pytest.approx(bottom * 200, abs=2)


def test_scattered_things_are_inside_and_seldom_over_each_other(shapes: Tensor) -> None:
    cuts = Cuts(shapes)
    pictures = scatter(cuts, 60, torch.arange(6), torch.ones(6, dtype=torch.bool), dice(0))
    assert {len(puts) for puts in pictures} == {1, 2, 3, 4, 5}
    assert pictures == scatter(cuts, 60, torch.arange(6), torch.ones(6, dtype=torch.bool), dice(0))
    for puts in pictures:
        boxes = [cuts.box(put) for put in puts]
        assert all(overlap(a, b) < 0.45 for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(-0.1 < edge < 1.1 for box in boxes for edge in box)
