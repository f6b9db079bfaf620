"""Each function of ``cpu.cpp`` against plain torch in float32, to the rounding of its results."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from frolic.nn.kernels.cpu import Kernels, compiler, kernels, wide
from frolic.nn.linear_attention import relu_linear_attention
from frolic.nn.norm import modulated_layer_norm

pytestmark = pytest.mark.skipif(kernels(torch.float32) is None, reason="no C++ compiler")
EPS = 1e-15


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=str)
def call(request: pytest.FixtureRequest) -> Kernels:
    found = kernels(request.param)
    assert found is not None
    return found


Random = Callable[..., Tensor]


@pytest.fixture
def random(call: Kernels) -> Random:
    """Activations of a shape, the same numbers in either type."""

    def made(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16().to(call.dtype)

    return made


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.float().requires_grad_() for tensor in tensors]


def near(a: Tensor, b: Tensor | None, tolerance: float | None = None) -> None:
    assert b is not None
    if tolerance is None:
        tolerance = 4e-3 if a.dtype == torch.bfloat16 else 1e-5
    assert float((a.float() - b.detach()).norm() / b.detach().norm()) < tolerance


def test_a_machine_with_a_compiler_has_the_library() -> None:
    assert compiler() is not None


@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "width"), [(2, 16, 2, 16), (1, 1, 1, 16), (3, 65, 3, 32), (1, 7, 1, 48)]
)
def test_linear_attention(call: Kernels, random: Random, batch: int, tokens: int, heads: int, width: int) -> None:
    d = heads * width
    qkv, g = random(batch, tokens, 3 * d), random(batch, tokens, d, seed=1)
    (x,) = leaves(qkv)
    q, k, v = rearrange(x, "b l (three n k) -> three b l n k", three=3, n=heads)
    y = relu_linear_attention(q, k, v, eps=EPS).flatten(2)
    y.backward(g.float())
    out, grad = call.new(batch, tokens, d), call.new(batch, tokens, 3 * d)
    call("linear_attention_forward", qkv, out, batch, tokens, heads, width, EPS)
    call("linear_attention_backward", g, qkv, grad, batch, tokens, heads, width, EPS)
    near(out, y)
    near(grad, x.grad)


@pytest.mark.parametrize(
    ("batch", "tokens", "text", "heads", "width"),
    [(3, 16, 5, 1, 32), (4, 64, 24, 4, 64), (2, 7, 17, 2, 16), (1, 1, 1, 1, 16)],
)
def test_cross_attention(
    call: Kernels, random: Random, batch: int, tokens: int, text: int, heads: int, width: int
) -> None:
    d = heads * width
    q, k, v, g = (
        random(batch, tokens, d),
        *(random(batch, text, d, seed=s) for s in (1, 2)),
        random(batch, tokens, d, seed=3),
    )
    # Holes too, and a first token that may not be read.
    mask = torch.rand(batch, text, generator=torch.Generator().manual_seed(4)) < 0.6
    mask[:, -1] = True
    given = leaves(q, k, v)
    q4, k4, v4 = (rearrange(x, "b l (n k) -> b n l k", n=heads) for x in given)
    y = rearrange(F.scaled_dot_product_attention(q4, k4, v4, attn_mask=mask[:, None, None]), "b n l k -> b l (n k)")
    y.backward(g.float())
    out, grads = (
        call.new(batch, tokens, d),
        [call.new(batch, tokens, d), call.new(batch, text, d), call.new(batch, text, d)],
    )
    seen, sizes = mask.to(torch.uint8), (batch, tokens, text, heads, width)
    call("cross_attention_forward", q, k, v, seen, out, *sizes)
    call("cross_attention_backward", g, q, k, v, seen, *grads, *sizes)
    near(out, y)
    near(grads[2], given[2].grad)
    if text > 1:  # with one token to read, what is asked for changes nothing
        near(grads[0], given[0].grad)
        near(grads[1], given[1].grad)
    assert not grads[1][~mask].any() and not grads[2][~mask].any()


@pytest.mark.parametrize(("batch", "height", "width", "hidden"), [(2, 4, 4, 16), (1, 1, 1, 32), (3, 3, 7, 48)])
def test_gated_convolution(call: Kernels, random: Random, batch: int, height: int, width: int, hidden: int) -> None:
    h, g = random(batch, height * width, 2 * hidden), random(batch, height * width, hidden, seed=1)
    x, w, b = leaves(h, random(2 * hidden, 1, 3, 3, seed=2), random(2 * hidden, seed=3))
    picture = rearrange(F.silu(x), "b (h w) f -> b f h w", h=height)
    mixed = rearrange(F.conv2d(picture, w, b, padding=1, groups=2 * hidden), "b f h w -> b (h w) f")
    value, gate = mixed.chunk(2, dim=-1)
    y = value * F.silu(gate)
    y.backward(g.float())
    taps, bias = w.detach().flatten(1).t().contiguous(), b.detach()
    out, grad, g_taps, g_bias = (
        call.new(*g.shape),
        call.new(*h.shape),
        wide(9, 2 * hidden),
        wide(2 * hidden),
    )
    sizes = (batch, height, width, hidden)
    call("gated_convolution_forward", h, taps, bias, out, *sizes)
    call("gated_convolution_backward", g, h, taps, bias, grad, g_taps, g_bias, *sizes)
    near(out, y)
    near(grad, x.grad)
    near(g_taps.t().reshape(w.shape), w.grad, 1e-5)
    near(g_bias, b.grad, 1e-5)


def test_modulated_norm(call: Kernels, random: Random) -> None:
    batch, tokens, d = 2, 5, 48
    g = random(batch, tokens, d)
    x, modulation = leaves(3 * random(batch, tokens, d, seed=1) + 1, random(batch, 2, d, seed=2))
    y = modulated_layer_norm(x, modulation[:, :1], modulation[:, 1:], 1e-6)
    y.backward(g.float())
    out, mean, rstd = call.new(batch, tokens, d), wide(batch * tokens), wide(batch * tokens)
    plain, (shift, scale) = x.detach(), modulation.detach().unbind(1)
    call("norm_forward", plain, shift, scale, 2 * d, out, mean, rstd, batch, tokens, d, 1e-6)
    grad, g_modulation = torch.ones(batch, tokens, d), wide(batch, 2, d)
    given = (g, plain, mean, rstd, scale, 2 * d, grad, *g_modulation.unbind(1), batch, tokens, d)
    call("norm_backward", *given)
    near(out, y)
    assert x.grad is not None
    near(grad, 1 + x.grad, 1e-5)  # it adds to what is there
    near(g_modulation, modulation.grad, 1e-5)


@pytest.mark.parametrize("gated", [True, False])
def test_residual(call: Kernels, random: Random, gated: bool) -> None:
    batch, tokens, d = 2, 3, 32
    a, g = random(batch, tokens, d), torch.randn(batch, tokens, d)
    x, inner, gate = leaves(random(batch, tokens, d, seed=1), a, random(batch, 1, d, seed=2))
    y = x + gate * inner if gated else x + inner
    y.backward(g)
    out, rounded, grad, g_gate = (
        wide(batch, tokens, d),
        call.new(batch, tokens, d),
        call.new(batch, tokens, d),
        wide(batch, d),
    )
    given, to = (gate.detach()[:, 0], g_gate) if gated else (None, None)
    call("residual_forward", x.detach(), a, given, d, out, rounded, batch, tokens, d)
    call("residual_backward", g, a, given, d, grad, to, batch, tokens, d)
    near(out, y, 1e-6)
    assert torch.equal(rounded, out.to(call.dtype))
    near(grad, inner.grad)
    if gated:
        assert gate.grad is not None
        near(g_gate, gate.grad[:, 0], 1e-5)


def test_sums_and_rounding(call: Kernels, random: Random) -> None:
    g = random(37, 48)
    out, x = wide(48), torch.ones(37, 48)
    call("column_sums", g, out, 37, 48)
    call("add", x, g, g.numel())
    near(out, g.float().sum(0), 1e-6)
    assert torch.equal(x, 1 + g.float())
    # Ties, the largest and the smallest numbers round as torch rounds them.
    edge = torch.tensor([1.00390625, 1.01171875, -1.00390625, 3e38, -1e-38, 0.0, 1e-30, 65504.0] * 2)
    wide_out, rounded = wide(1, 1, 16), call.new(1, 1, 16)
    call(
        "residual_forward",
        edge.reshape(1, 1, 16),
        torch.zeros(1, 1, 16).to(call.dtype),
        None,
        0,
        wide_out,
        rounded,
        1,
        1,
        16,
    )
    assert torch.equal(rounded, edge.reshape(1, 1, 16).to(call.dtype))


@pytest.mark.parametrize("value", [-200.0, -88.0, -20.0, 0.0, 20.0, 88.0, 200.0])
def test_silu_of_far_numbers_is_finite(call: Kernels, value: float) -> None:
    h = torch.full((1, 1, 32), value).to(call.dtype)
    taps, bias = torch.zeros(9, 32), torch.zeros(32)
    taps[4] = 1.0
    out, grad, g_taps, g_bias = call.new(1, 1, 16), call.new(1, 1, 32), wide(9, 32), wide(32)
    call("gated_convolution_forward", h, taps, bias, out, 1, 1, 1, 16)
    call(
        "gated_convolution_backward",
        torch.ones(1, 1, 16).to(call.dtype),
        h,
        taps,
        bias,
        grad,
        g_taps,
        g_bias,
        1,
        1,
        1,
        16,
    )
    expected = F.silu(h[..., :16].float()) * F.silu(F.silu(h[..., 16:].float()))
    torch.testing.assert_close(out.float(), expected, rtol=8e-3, atol=1e-20)
    assert all(bool(torch.isfinite(x.float()).all()) for x in (grad, g_taps, g_bias))


def test_where_nothing_can_be_kept_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nope")
    assert kernels.__wrapped__(torch.float32) is None
