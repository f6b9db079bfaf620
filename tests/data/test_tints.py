import pytest
import torch

from frolic.data.compose import PALETTE
from frolic.data.tints import TINTS, from_oklab, oklab, tint

WORDS = {"red": (210, 40, 40), "green": (90, 190, 90), "blue": (60, 110, 220), "yellow": (250, 210, 60)}


def ball(colour: tuple[int, int, int], side: int = 24) -> torch.Tensor:
    """A shaded ball with a white highlight and a small part of another hue, in straight alpha."""
    axis = torch.linspace(-1, 1, side)
    shade = (1 - 0.35 * (axis[:, None] + 1) / 2).expand(side, side)
    sprite = torch.cat([torch.tensor(colour)[:, None, None] / 255 * shade, torch.ones(1, side, side)])
    sprite[3, :4] = 0
    sprite[:3, 6:9, 6:9] = 1
    # A leaf of the opposite hue.
    sprite[:3, 18:22, 18:22] = (1 - torch.tensor(colour) / 255)[:, None, None]
    return sprite


def body(sprite: torch.Tensor) -> torch.Tensor:
    return sprite[:3, 10:16, 4:16]


def test_oklab_and_back():
    colours = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(from_oklab(oklab(colours)), colours, atol=1e-4)
    white = oklab(torch.ones(1, 3, 1, 1)).flatten()
    assert torch.allclose(white, torch.tensor([1.0, 0, 0]), atol=1e-3)


def test_every_colour_of_the_palette_is_a_tint():
    assert list(TINTS) == sorted(TINTS, key=list(TINTS).index) and set(TINTS) == set(PALETTE)


@pytest.mark.parametrize("word", TINTS)
@pytest.mark.parametrize("own", WORDS)
def test_a_tinted_thing_is_clearly_of_that_colour(own, word):
    painted = body(tint(ball(WORDS[own]), word)).mean(dim=(1, 2))
    known = oklab(torch.tensor(list(TINTS.values())).T[None, :, :, None] / 255)[0, :, :, 0].T
    apart = (known - oklab(painted[None, :, None, None]).flatten()).square().sum(dim=1)
    assert list(TINTS)[int(apart.argmin())] == word


@pytest.mark.parametrize("word", TINTS)
def test_shading_highlights_and_other_hues_stay(word):
    before = ball(WORDS["red"])
    after = tint(before, word)
    assert torch.equal(after[3], before[3])
    assert torch.allclose(after[:3, 6:9, 6:9], torch.ones(3, 3, 3), atol=0.02)
    assert torch.allclose(after[:3, 18:22, 18:22], before[:3, 18:22, 18:22], atol=0.02)
    light = oklab(after[None, :3])[0, 0]
    assert light[5, 14] > light[22, 14] + 0.01, "lit from above, as it was"


def test_a_sprite_without_colour_stays_finite():
    gray = torch.full((4, 8, 8), 0.5)
    assert torch.allclose(tint(gray, "blue"), gray, atol=0.02)
    assert tint(torch.zeros(4, 8, 8), "blue").isfinite().all()
