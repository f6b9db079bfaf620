"""Cut-outs of a new thing, put beside others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from frolic.data.beside import PLACES, Place, beside, cut_out, put_together

RED, BLUE = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.9])


def disc(
    colour: Tensor, ground: tuple[float, float, float] = (0.8, 0.9, 0.7), side: int = 64, radius: float = 0.3
) -> Tensor:
    """[3, S, S]: a disc in the middle with a hole, whose edge is soft."""
    y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, side)], indexing="ij")
    far = (x * x + y * y).sqrt() / 2
    alpha = ((radius - far) * side / 2).clamp(0, 1) * ((far - 0.06) * side / 2).clamp(0, 1)
    return colour[:, None, None] * alpha + torch.tensor(ground)[:, None, None] * (1 - alpha)


def test_a_thing_on_a_plain_ground_is_cut_out() -> None:
    cut = cut_out(disc(RED))
    assert cut is not None and cut.shape[0] == 4
    assert all(abs(side - 0.6 * 64) <= 3 for side in cut.shape[1:]), "to its size, without the mixed rim"
    alpha = cut[3]
    assert float(alpha.max()) == 1 and float(alpha[0, 0]) == 0
    middle = tuple(side // 2 for side in alpha.shape)
    assert float(alpha[middle]) == 1, "what the rim does not lead to belongs to the thing"
    solid = (alpha > 0.99) & ((cut[0] - cut[1]) > 0.5)
    true = (cut[:3, solid] - RED[:, None]).abs().amax(0) < 0.02
    assert float(true.float().mean()) > 0.9, "all but the soft rim of the hole"


def test_transparency_is_taken_as_it_is() -> None:
    picture = torch.cat([torch.rand(3, 20, 30), torch.zeros(1, 20, 30)])
    picture[3, 5:12, 8:20] = 1
    cut = cut_out(picture)
    assert cut is not None and torch.equal(cut[:3], picture[:3, 5:12, 8:20]) and cut[3].min() == 1


@pytest.mark.parametrize(
    "picture",
    [torch.rand(3, 40, 40), torch.full((3, 40, 40), 0.5), torch.linspace(0, 1, 40).expand(3, 40, 40)],
    ids=["noise", "nothing", "a gradient"],
)
def test_what_cannot_be_cut_out_is_none(picture: Tensor) -> None:
    assert cut_out(picture) is None


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.caption)
def test_captions_are_true(place: Place) -> None:
    new, other = cut_out(disc(RED)), cut_out(disc(BLUE))
    assert new is not None and other is not None
    picture = beside(new, other, place, 96, torch.Generator().manual_seed(1))
    assert picture.shape == (3, 96, 96) and float(picture.min()) >= 0 and float(picture.max()) <= 1
    y, x = torch.meshgrid(*2 * [torch.linspace(0, 1, 96)], indexing="ij")
    red, blue = ((picture - colour[:, None, None]).abs().amax(0) < 0.15 for colour in (RED, BLUE))
    assert int(red.sum()) > 200 and int(blue.sum()) > 200, "neither hides the other"
    where = {
        "new": (float(x[red].mean()), float(y[red].mean())),
        "other": (float(x[blue].mean()), float(y[blue].mean())),
    }
    for words, axis, sign in (
        (" to the left of ", 0, 1),
        (" to the right of ", 0, -1),
        (" above ", 1, 1),
        (" below ", 1, -1),
    ):
        first, relation, second = place.caption.partition(words)
        if relation:
            gap = where[second.strip("{}")][axis] - where[first.strip("{}")][axis]
            assert sign * gap > 0.3


def test_all_things_and_places_come_and_nothing_is_left_to_chance_twice() -> None:
    new, other = cut_out(disc(RED)), cut_out(disc(BLUE))
    assert new is not None and other is not None
    others = [(name, other) for name in ("a dog", "an ant", "scissors")]
    pictures, captions = put_together([new, new], "umbo", others, 30, 48)
    assert pictures.shape == (30, 3, 48, 48) and len(captions) == len(set(captions)) == 30
    assert all(caption.count("an umbo") == 1 for caption in captions)
    assert sum("scissors" in caption for caption in captions) == 10
    again = put_together([new, new], "umbo", others, 30, 48)
    assert torch.equal(again[0], pictures) and again[1] == captions
