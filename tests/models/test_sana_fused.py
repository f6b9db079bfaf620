"""The block that trains in one piece against the plain one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from frolic.models.sana.block import SanaBlock
from frolic.models.sana.config import SanaConfig
from frolic.models.sana.fused import FusedBlock, fuse
from frolic.models.sana.model import SanaTransformer
from frolic.nn.kernels import cpu

needs_compiler = pytest.mark.skipif(cpu.kernels(torch.float32) is None, reason="no C++ compiler")


def transformer(**changes: object) -> SanaTransformer:
    sizes = {"heads": 2, "head_dim": 16, "cross_heads": 1, "cross_head_dim": 32, "layers": 2, "mlp_ratio": 1.5}
    config = SanaConfig(in_channels=4, out_channels=4, caption_channels=16, sample_size=4, **(sizes | changes))  # type: ignore[arg-type]
    torch.manual_seed(0)
    net = SanaTransformer(config)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.normal_(std=0.2)
    return net


def inputs(batch: int, height: int, width: int, text: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, text + 1, (batch, 1), generator=generator)
    x = torch.randn(batch, 4, height, width, generator=generator)
    t = 1000 * torch.rand(batch, generator=generator)
    return x, t, torch.randn(batch, text, 16, generator=generator), torch.arange(text)[None] < lengths


def gradients(net: nn.Module, given: tuple[Tensor, ...], half: bool) -> tuple[Tensor, dict[str, Tensor]]:
    text = given[2].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = net(given[0], given[1], text, given[3]).float()
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    found = torch.autograd.grad((out - given[0]).square().mean(), [text, *named.values()])
    return out.detach(), dict(zip(["text", *named], found, strict=True))


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-9))


@needs_compiler
@pytest.mark.parametrize(
    ("batch", "height", "width", "text"), [(3, 4, 4, 5), (2, 3, 7, 24), (1, 1, 1, 1), (2, 5, 2, 17)]
)
def test_as_near_to_float32_as_autocast_is(batch: int, height: int, width: int, text: int) -> None:
    net = transformer()
    fused = copy.deepcopy(net)
    assert fuse(fused) and all(type(block) is FusedBlock for block in fused.blocks)
    given = inputs(batch, height, width, text)
    exact, exact_grads = gradients(net, given, half=False)
    plain, plain_grads = gradients(net, given, half=True)
    out, grads = gradients(fused, given, half=True)
    assert distance(out, exact) < 1.5 * distance(plain, exact) + 1e-3
    assert grads.keys() == exact_grads.keys()
    ours, theirs = ([distance(each[name], exact_grads[name]) for name in grads] for each in (grads, plain_grads))
    # Single tensors may be off by some percent where few tokens stand at a kink; a wrong one is off by all.
    assert max(ours) < 0.08
    assert sum(ours) < 1.5 * sum(theirs) + 0.05


@needs_compiler
@pytest.mark.parametrize(
    ("batch", "height", "width", "text"), [(3, 4, 4, 5), (2, 3, 7, 24), (1, 1, 1, 1), (2, 5, 2, 17)]
)
def test_in_float32_the_same_as_the_plain_block(batch: int, height: int, width: int, text: int) -> None:
    net = transformer()
    fused = copy.deepcopy(net)
    fuse(fused)
    given = inputs(batch, height, width, text)
    exact, exact_grads = gradients(net, given, half=False)
    out, grads = gradients(fused, given, half=False)
    assert not torch.equal(out, exact), "the fused block was not used"
    assert distance(out, exact) < 2e-6
    assert max(distance(grads[name], exact_grads[name]) for name in exact_grads) < 1e-4


@needs_compiler
@pytest.mark.parametrize("half", [True, False])
def test_what_is_masked_has_no_gradient(half: bool) -> None:
    fused = transformer()
    fuse(fused)
    given = inputs(4, 4, 4, 9)
    grad = gradients(fused, given, half)[1]["text"]
    assert torch.equal(grad[~given[3]], torch.zeros_like(grad[~given[3]]))
    assert bool((grad[given[3]].abs().sum(dim=-1) > 0).all())


@needs_compiler
def test_drawing_and_float64_take_the_plain_path() -> None:
    net = transformer()
    fused = copy.deepcopy(net)
    fuse(fused)
    given = inputs(2, 4, 4, 5)
    with torch.no_grad():
        assert torch.equal(fused(*given), net(*given))
    x, t, text, mask = given
    given = (x.double(), t.double(), text.double(), mask)
    assert torch.equal(gradients(fused.double(), given, half=False)[0], gradients(net.double(), given, half=False)[0])


@needs_compiler
def test_a_copy_trains_its_own_weights() -> None:
    fused = transformer()
    fuse(fused)
    copied = copy.deepcopy(fused)
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.zero_()
    given = inputs(2, 4, 4, 5)
    plain = transformer()
    assert distance(gradients(copied, given, True)[0], gradients(plain, given, True)[0]) < 0.02


@needs_compiler
def test_frozen_weights_get_no_gradient() -> None:
    fused = transformer()
    fuse(fused)
    fused.requires_grad_(False)
    fused.blocks[1].mlp.expand.weight.requires_grad_(True)
    given = inputs(2, 4, 4, 5)
    grads = gradients(fused, given, half=True)[1]
    assert grads.keys() == {"text", "blocks.1.mlp.expand.weight"}


@needs_compiler
def test_a_replaced_linear_is_called() -> None:
    class Other(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Other.calls += 1
            return super().forward(x)

    fused = transformer()
    fuse(fused)
    for block in fused.blocks:
        block.attn.qkv = Other(32, 96, bias=False)
    gradients(fused, inputs(2, 4, 4, 5), half=True)
    assert Other.calls == 2


@needs_compiler
@pytest.mark.parametrize(
    "changes", [{"qk_norm": True}, {"attention_bias": True}, {"head_dim": 8, "heads": 4}, {"mlp_ratio": 1.25}]
)
def test_blocks_of_other_kinds_stay(changes: dict[str, object]) -> None:
    net = transformer(**changes)
    assert not fuse(net)
    assert all(type(block) is SanaBlock for block in net.blocks)


def test_without_a_compiler_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu.kernels.cache_clear()
    monkeypatch.setattr(cpu, "compiler", lambda: None)
    monkeypatch.setattr("frolic.models.sana.fused.compiler", lambda: None)
    try:
        net = transformer()
        assert cpu.kernels(torch.float32) is None and not fuse(net)
        assert all(type(block) is SanaBlock for block in net.blocks)
    finally:
        cpu.kernels.cache_clear()
