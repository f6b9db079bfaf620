"""A doubling layer whose shortcut and order of channels are a part of its convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.models.dcae.local import apart, unfolded, unfolding
from frolic.models.dcae.model import Up


def layer(inside: int, outside: int, shortcut: bool = True, seed: int = 0) -> tuple[Up, Tensor]:
    torch.manual_seed(seed)
    up = Up(inside, outside, "pixel_shuffle", shortcut).requires_grad_(False)
    return up, torch.randn(2, inside, 5, 3).contiguous(memory_format=torch.channels_last)


def by_hand(up: Up, x: Tensor) -> Tensor:
    """As the paper has it: two layers, added."""
    out = F.pixel_shuffle(up.conv(x), 2)
    if not up.repeats:
        return out
    return out + F.pixel_shuffle(x.repeat_interleave(up.repeats, dim=1), 2)


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize(("inside", "outside"), [(8, 8), (16, 8), (8, 4), (16, 4), (4, 8)])
def test_the_merged_layer_is_the_two(inside: int, outside: int, shortcut: bool) -> None:
    up, x = layer(inside, outside, shortcut)
    with torch.no_grad():
        found, expected = up(x), by_hand(up, x)
    assert found.shape == (2, outside, 10, 6)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def test_with_gradients_nothing_is_merged() -> None:
    up, x = layer(8, 8)
    assert torch.equal(up.requires_grad_()(x), by_hand(up, x))
    assert torch.autograd.grad(up(x).sum(), up.conv.weight)[0].abs().sum() > 0


def test_in_half_precision_small_weights_are_not_lost_beside_the_shortcut() -> None:
    up, x = layer(8, 8)
    up.conv.weight.mul_(1e-3)
    up, x = up.bfloat16(), x.bfloat16()
    with torch.no_grad():
        assert torch.equal(up(x), by_hand(up, x))


def test_weights_that_changed_are_merged_again() -> None:
    up, x = layer(8, 8)
    with torch.no_grad():
        before = up(x)
        up.conv.weight.mul_(2)
        torch.testing.assert_close(up(x), by_hand(up, x), rtol=1e-5, atol=2e-6)
        up.conv.weight.mul_(0.5)
        assert torch.equal(up(x), before)
        other, _ = layer(8, 8, seed=1)
        up.load_state_dict(other.state_dict(), assign=True)
        torch.testing.assert_close(up(x), by_hand(other, x), rtol=1e-5, atol=2e-6)


def test_the_merged_convolution_is_not_a_part_of_the_layers_state() -> None:
    up, x = layer(8, 8)
    names = set(up.state_dict())
    with torch.no_grad():
        up(x)
    assert set(up.state_dict()) == names and len(list(up.parameters())) == 2


def test_apart_is_unfolded_of_channels_in_another_order() -> None:
    x = torch.randn(2, 12, 3, 5)
    assert torch.equal(apart(x), unfolded(x.unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2)))
    conv = Up(3, 3, "pixel_shuffle").conv
    with torch.no_grad():
        merged = unfolding(conv, 0)
        y = torch.randn(1, 3, 4, 4)
        torch.testing.assert_close(apart(merged(y)), unfolded(conv(y)))
