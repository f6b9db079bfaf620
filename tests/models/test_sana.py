"""What the transformer does beyond its parity with the published class."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frolic.models.sana import SanaConfig, SanaContext, SanaTransformer


class Scaled(nn.Linear):
    """Stands for a linear that an adapter or a quantizer put in place of a plain one."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.fixture
def net() -> SanaTransformer:
    torch.manual_seed(0)
    return SanaTransformer(
        SanaConfig(in_channels=4, out_channels=4, heads=4, head_dim=8, layers=2, cross_heads=2, cross_head_dim=16,
                   caption_channels=12, sample_size=4)
    ).requires_grad_(False)  # fmt: skip


def inputs(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    mask = torch.ones(2, tokens, dtype=torch.bool)
    mask[1, 2:] = False
    return torch.randn(2, 4, 4, 4), torch.tensor([900.0, 100.0]), torch.randn(2, tokens, 12), mask


def test_folded_text_gives_the_same_velocity(net):
    x, t, text, mask = inputs(5)
    folded = net.context(text, mask)
    assert len(folded.kv[0]) == 3, "five tokens and two heads are fewer than half of 32 channels"
    assert torch.allclose(net.denoise(x, t, folded), net(x, t, text, mask), atol=1e-5)


def test_long_text_is_not_folded(net):
    _, _, text, mask = inputs(9)
    assert len(net.context(text, mask).kv[0]) == 2


def test_a_replaced_linear_is_called_and_not_folded(net):
    x, t, text, mask = inputs(5)
    plain = net.denoise(x, t, net.context(text, mask))
    net.blocks[1].cross.out = Scaled(32, 32)
    context = net.context(text, mask)
    assert [len(kv) for kv in context.kv] == [3, 2]
    changed = net.denoise(x, t, context)
    assert torch.allclose(changed, net(x, t, text, mask), atol=1e-5)
    assert not torch.allclose(changed, plain, atol=1e-3)


def test_contexts_stack_and_select(net):
    x, t, text, mask = inputs(5)
    rows = [net.context(text[i : i + 1], mask[i : i + 1]) for i in range(2)]
    stacked = SanaContext.cat(rows).rows(torch.tensor([1, 0]))
    assert torch.allclose(net.denoise(x, t, stacked), net(x, t, text.flip(0), mask.flip(0)), atol=1e-5)


def test_padding_beyond_the_mask_changes_nothing(net):
    x, t, text, mask = inputs(5)
    longer = torch.cat([text, torch.full((2, 3, 12), 50.0)], dim=1)
    wider = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    assert torch.allclose(net(x, t, longer, wider), net(x, t, text, mask), atol=1e-5)
