from __future__ import annotations

import pytest
import torch

from frolic.data.compose import PALETTE
from frolic.eval.colours import ground_colour, thing_colour


def plain(word: str) -> torch.Tensor:
    return (torch.tensor(PALETTE[word])[:, None, None].expand(3, 64, 64) / 255 * 2 - 1).clone()


@pytest.mark.parametrize("word", list(PALETTE))
def test_a_plain_ground_and_its_gradient_are_named(word: str) -> None:
    assert ground_colour(plain(word)) == word
    if word not in ("white", "black"):
        paler = torch.lerp(plain(word), torch.ones(1), 0.25 * torch.linspace(0, 1, 64)[:, None])
        assert ground_colour(paler) == word


def test_what_stands_in_front_does_not_colour_the_ground() -> None:
    x = plain("yellow")
    x[:, 10:60, 10:64] = plain("purple")[:, 10:60, 10:64]
    assert ground_colour(x) == "yellow"


@pytest.mark.parametrize("word", list(PALETTE))
def test_a_shaded_thing_is_named(word: str) -> None:
    x = plain("green" if word != "green" else "pink")
    y, across = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    light = torch.lerp(torch.tensor(0.9), torch.tensor(1.04), (1 - y) / 2)
    ball = ((plain(word) + 1) / 2 * light).clamp(0, 1) * 2 - 1
    inside = y**2 + across**2 < 0.5
    x[:, inside] = ball[:, inside]
    assert thing_colour(x, (0.15, 0.15, 0.85, 0.85)) == word
