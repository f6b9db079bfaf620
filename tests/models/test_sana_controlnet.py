"""The ControlNet beyond its parity with the published class: the authors' way to join it, and what training needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from frolic.errors import CheckpointError
from frolic.models.sana import (
    INJECTIONS,
    Perturb,
    SanaConfig,
    SanaControlNet,
    SanaControlNetConfig,
    SanaState,
    SanaTransformer,
    TextContext,
)

CONFIG = SanaConfig(
    in_channels=4, out_channels=4, heads=4, head_dim=8, layers=4, cross_heads=2, cross_head_dim=16,
    caption_channels=12, sample_size=4,
)  # fmt: skip
OPTIONS = {
    "plain": CONFIG,
    "qk-norm": replace(CONFIG, qk_norm=True),
    "positions": replace(CONFIG, interpolation_scale=2.0),
    "guidance": replace(CONFIG, guidance_embeds=True, qk_norm=True),
    "patches": replace(CONFIG, patch_size=2, timestep_scale=0.001),
}


def models(config=CONFIG, layers=2, *, trained=True):
    torch.manual_seed(0)
    base = SanaTransformer(config).requires_grad_(False)
    net = SanaControlNet.from_base(base, layers)
    if trained:
        for name, parameter in net.named_parameters():
            if name.startswith(("blocks.", "input_block.", "controlnet_blocks.")):
                torch.nn.init.normal_(parameter, std=0.2)
    return base, net.requires_grad_(False)


def inputs(config, rows=3, size=(4, 6)):
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()[:rows]
    t = torch.tensor([900.0, 400.0, 10.0])[:rows]
    guidance = torch.tensor([4.5, 1.0, 2.0])[:rows] if config.guidance_embeds else None
    return torch.randn(rows, 4, *size), t, torch.randn(rows, 5, 12), mask, guidance


def in_written_order(base, net, x, t, text, mask, guidance, picture, scale):
    """The authors' loop, from its description: one after the other, nothing prepared, only the modules called."""
    patch = base.config.patch_size
    rows, columns = x.shape[2] // patch, x.shape[3] // patch

    def embedded(latents):
        patches = F.unfold(latents, patch, stride=patch).transpose(1, 2)
        return base.patch(patches)

    time = base.time(t * base.config.timestep_scale)
    if guidance is not None:
        time = time + base.guidance(guidance * base.config.guidance_embeds_scale)
    modulation = base.modulation(F.silu(time)).view(len(x), 6, -1)
    caption = base.caption(text)

    def through(block, tokens):
        contexts = [()] * block.index + [block.cross.project(caption)]
        state = SanaState(tokens, modulation, time, TextContext(tuple(contexts), mask), (rows, columns))
        return block(state).x

    hidden = embedded(x)
    if base.positions is not None:
        hidden = hidden + base.positions.compute((rows, columns))
    control = embedded(picture)
    hidden = through(base.blocks[0], hidden)
    for i in range(1, len(net.blocks) + 1):
        if i == 1:
            control = through(net.blocks[0], hidden + net.input_block(control))
        else:
            control = through(net.blocks[i - 1], control)
        skip = net.controlnet_blocks[i - 1](control)
        hidden = through(base.blocks[i], hidden + scale * skip)
    for i in range(len(net.blocks) + 1, len(base.blocks)):
        hidden = through(base.blocks[i], hidden)
    shift, gain = (base.table[None] + time[:, None]).chunk(2, dim=1)
    out = base.out(F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * (1 + gain) + shift)
    grid = out.view(len(x), rows, columns, patch, patch, -1)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


@pytest.mark.parametrize("size", [(4, 4), (4, 6)], ids=str)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("option", OPTIONS)
def test_native_injection_follows_the_written_order(option, layers, size):
    config = OPTIONS[option]
    base, net = models(config, layers)
    x, t, text, mask, guidance = inputs(config, size=size)
    picture = torch.randn_like(x)
    for scale in (1.0, 0.3):
        expected = in_written_order(base, net, x, t, text, mask, guidance, picture, scale)
        control = net.control(picture, net.context(text, mask), scale=scale, injection="native")
        got = base(x, t, text, mask, guidance_B=guidance, control=control)
        assert (got - expected).abs().max() < 1e-4 * (expected.max() - expected.min())


def test_the_two_injections_differ():
    base, net = models()
    x, t, text, mask, _ = inputs(CONFIG)
    one, other = (
        base(x, t, text, mask, control=net.control(x, net.context(text, mask), injection=injection))
        for injection in INJECTIONS
    )
    assert not torch.allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("option", OPTIONS)
def test_a_fresh_one_changes_nothing(option, injection):
    config = OPTIONS[option]
    base, net = models(config, trained=False)
    x, t, text, mask, guidance = inputs(config)
    control = net.control(torch.randn_like(x), net.context(text, mask), injection=injection)
    got = base(x, t, text, mask, guidance_B=guidance, control=control)
    assert torch.equal(got, base(x, t, text, mask, guidance_B=guidance))


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_fresh_one_learns(injection):
    """First the projections that start at zero, then, once they are not, all that lies before them."""
    base, net = models(trained=False)
    net.requires_grad_(True)
    x, t, text, mask, _ = inputs(CONFIG)
    picture = torch.randn_like(x)

    def gradients():
        net.zero_grad()
        control = net.control(picture, net.context(text, mask, fold=False), injection=injection)
        base(x, t, text, mask, control=control).square().mean().backward()
        return {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}

    assert gradients() == {n for n, _ in net.named_parameters() if n.startswith("controlnet_blocks.")}
    with torch.no_grad():
        for p in (p for n, p in net.named_parameters() if n.startswith("controlnet_blocks.")):
            p.normal_(std=0.1)
    assert {"input_block.weight", "blocks.0.attn.qkv.weight", "blocks.1.mlp.project.weight"} <= gradients()


def test_a_fresh_one_is_a_copy():
    base, net = models(trained=False)
    assert not net.input_block.weight.any() and not net.controlnet_blocks[1].bias.any()
    weight = net.blocks[0].attn.qkv.weight
    assert torch.equal(weight, base.blocks[0].attn.qkv.weight)
    with torch.no_grad():
        weight.zero_()
    assert base.blocks[0].attn.qkv.weight.any()


def test_too_small_a_base_is_refused():
    base = SanaTransformer(CONFIG)
    with pytest.raises(CheckpointError, match="layers: 4, which must be fewer than 4"):
        SanaControlNet.from_base(base, 4)


def test_differences_are_all_named():
    other = SanaControlNetConfig(heads=36, cross_heads=16, cross_head_dim=72, in_channels=16, layers=30)
    assert other.differences(SanaConfig()) == {
        "width": "1152 and 2240",
        "in_channels": "16 and 32",
        "layers": "30, which must be fewer than 20",
    }
    assert not SanaControlNetConfig().differences(SanaConfig(interpolation_scale=2.0, sample_size=128))


@pytest.mark.parametrize("injection", INJECTIONS)
def test_one_picture_serves_all_rows(injection):
    base, net = models()
    x, t, text, mask, _ = inputs(CONFIG)
    picture = torch.randn(1, 4, 4, 6)
    context = net.context(text, mask)
    one, each = (net.control(p, context, injection=injection) for p in (picture, picture.expand(3, -1, -1, -1)))
    assert torch.allclose(base(x, t, text, mask, control=one), base(x, t, text, mask, control=each), atol=1e-6)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_rows_follow_the_batch_with_guidance_and_perturbed_attention(injection):
    """Each row of a guided batch comes out as if it were alone, and perturbed attention reaches only its rows."""
    base, net = models()
    x, t, text, mask, _ = inputs(CONFIG)
    picture = torch.randn_like(x)
    order = torch.tensor([0, 2, 1, 2, 1, 2])
    parts = [
        net.control(picture[i : i + 1], net.context(text[i : i + 1], mask[i : i + 1]), scale=0.5, injection=injection)
        for i in range(3)
    ]
    control = net.control(picture[order], net.context(text, mask).rows(order), scale=0.5, injection=injection)
    context = base.context(text, mask).rows(order)
    got = base.denoise(x[order], t[order], context, perturb=Perturb(frozenset({1, 2}), 2), control=control)
    for row, i in enumerate(order.tolist()):
        one = slice(i, i + 1)
        perturb = Perturb(frozenset({1, 2}), 1) if row >= 4 else None
        alone = base(x[one], t[one], text[one], mask[one], perturb=perturb, control=parts[i])
        assert torch.allclose(got[row], alone[0], atol=1e-5)
    assert not torch.allclose(got[1], got[5], atol=1e-3)


def test_perturbed_attention_leaves_the_control_whole():
    """The branch's blocks have numbers too; they are not the ones that are named."""
    base, net = models(replace(CONFIG, layers=3), layers=2)
    x, t, text, mask, _ = inputs(CONFIG)
    seen = []
    net.blocks[1].register_forward_pre_hook(lambda _, args: seen.append(args[0].perturbed_rows(1)))
    control = net.control(x, net.context(text, mask), injection="native")
    base(x, t, text, mask, perturb=Perturb(frozenset({1}), 3), control=control)
    assert seen == [0]


@pytest.mark.parametrize("option", OPTIONS)
def test_what_is_written_is_read_back(option):
    _, net = models(OPTIONS[option], trained=False)
    assert SanaControlNetConfig.from_json(net.config.to_json()) == net.config


@pytest.mark.parametrize("entry", [{"guidance_embeds": True}, {"timestep_scale": 2.0}, {"colour": 1}], ids=str)
def test_entries_of_another_class_are_refused(entry):
    with pytest.raises(CheckpointError, match=f"SANA ControlNet config.*{next(iter(entry))} is unknown"):
        SanaControlNetConfig.from_json(entry)


def test_float16_stays_float16():
    base, net = models()
    x, t, text, mask, _ = inputs(CONFIG)
    control = net.half().control(x.half(), net.context(text.half(), mask), scale=0.5)
    assert base.half()(x.half(), t, text.half(), mask, control=control).dtype == torch.float16


@pytest.mark.parametrize("injection", INJECTIONS)
def test_the_control_sees_the_transformers_time(injection):
    base, net = models()
    scaled, _ = models(replace(CONFIG, timestep_scale=0.01))
    x, t, text, mask, _ = inputs(CONFIG)
    control = net.control(x, net.context(text, mask), injection=injection)
    expected = base(x, t * 0.01, text, mask, control=control)
    assert torch.allclose(scaled(x, t, text, mask, control=control), expected, atol=1e-5)
