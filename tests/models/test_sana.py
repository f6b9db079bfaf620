"""What the transformer does beyond its parity with the published class."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from frolic.models.sana import Perturb, SanaConfig, SanaTransformer, TextContext
from frolic.models.sana.positions import GridPositions


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_not_folded(net, dtype):
    """Folded logits would be rounded to half precision, those of fused attention are not."""
    _, _, text, mask = inputs(5)
    assert [len(kv) for kv in net.to(dtype).context(text.to(dtype), mask).kv] == [2, 2]
    assert [len(kv) for kv in net.context(text[:, :1].to(dtype), mask[:, :1]).kv] == [1, 1], "one token needs no logits"


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
    stacked = TextContext.cat(rows).rows(torch.tensor([1, 0]))
    assert torch.allclose(net.denoise(x, t, stacked), net(x, t, text.flip(0), mask.flip(0)), atol=1e-5)


def test_padding_beyond_the_mask_changes_nothing(net):
    x, t, text, mask = inputs(5)
    longer = torch.cat([text, torch.full((2, 3, 12), 50.0)], dim=1)
    wider = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    assert torch.allclose(net(x, t, longer, wider), net(x, t, text, mask), atol=1e-5)


def variant(net: SanaTransformer, **change) -> SanaTransformer:
    torch.manual_seed(0)
    return SanaTransformer(replace(net.config, **change)).requires_grad_(False)


def test_positions_are_computed_once_a_grid_and_never_stored(net, monkeypatch):
    net = variant(net, interpolation_scale=2.0)
    assert net.state_dict().keys() == variant(net, interpolation_scale=None).state_dict().keys()
    computed = []
    compute = GridPositions.compute
    monkeypatch.setattr(GridPositions, "compute", lambda *args: computed.append(args[1]) or compute(*args))
    x, t, text, mask = inputs(5)
    for latents in (x, x, x[..., :2], x):
        net(latents, t, text, mask)
    assert computed == [(4, 4), (4, 2), (4, 4)]
    half = net.to(torch.bfloat16).tokens(x.bfloat16())
    assert half.dtype == torch.bfloat16 and len(computed) == 4


def test_positions_made_while_drawing_serve_training(net):
    net = variant(net, interpolation_scale=1.0).requires_grad_(True)
    x, t, text, mask = inputs(5)
    with torch.inference_mode():
        net(x, t, text, mask)
    net(x, t, text, mask).square().mean().backward()
    assert net.patch.weight.grad.isfinite().all()


def test_guidance_is_given_exactly_where_it_is_embedded(net):
    x, t, text, mask = inputs(5)
    sprint = variant(net, guidance_embeds=True)
    with pytest.raises(AssertionError):
        sprint(x, t, text, mask)
    with pytest.raises(AssertionError):
        net(x, t, text, mask, guidance_B=t)
    low, high = (sprint(x, t, text, mask, guidance_B=torch.full((2,), scale)) for scale in (1.0, 5.0))
    assert not torch.allclose(low, high, atol=1e-3)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_perturbed_attention_touches_the_named_blocks_and_the_last_rows(net, qk_norm):
    net = variant(net, qk_norm=qk_norm)
    x, t, text, mask = inputs(5)
    context = net.context(text, mask)
    plain = net.denoise(x, t, context)
    some = net.denoise(x, t, context, perturb=Perturb(frozenset({1}), 1))
    every = net.denoise(x, t, context, perturb=Perturb(frozenset({0, 1}), 2))
    assert torch.allclose(some[0], plain[0], atol=1e-6)
    assert not torch.allclose(some[1], plain[1], atol=1e-4)
    assert not torch.allclose(some[1], every[1], atol=1e-4)
    assert torch.equal(net.denoise(x, t, context, perturb=Perturb(frozenset(), 2)), plain)


def test_identity_attention_is_the_value(net):
    attention = net.blocks[0].attn
    x = torch.randn(2, 6, 32)
    value = x @ attention.qkv.weight[64:].T
    assert torch.allclose(attention(x, 2), attention.out(value), atol=1e-6)
    assert torch.allclose(attention(x, 1)[:1], attention(x)[:1], atol=1e-6)


def test_a_projection_beyond_float16_is_held_at_its_end(net):
    attention = net.blocks[0].attn.half()
    attention.out.weight.fill_(300.0)
    attention.qkv.weight.fill_(10.0)
    assert attention(torch.full((1, 2, 32), 10.0).half()).max() == 65504


@pytest.mark.parametrize("change", [{}, {"qk_norm": True}])
def test_texts_of_several_lengths_are_read_side_by_side(net, change):
    net = variant(net, **change)
    x, t, text, mask = inputs(5)
    alone = mask.clone()
    alone[0] = torch.tensor([True, False, False, False, False])
    short, long = net.context(text[:1, :1], alone[:1, :1]), net.context(text[1:], alone[1:])
    assert [len(kv) for kv in short.kv] == [1, 1], "reading a single token gives the same everywhere"
    joined = TextContext.joined([short, long])
    assert len(joined) == 2
    assert torch.allclose(net.denoise(x, t, joined), net(x, t, text, alone), atol=1e-5)
    with pytest.raises(AssertionError, match="selected before they are joined"):
        joined.rows(torch.tensor([0]))
