"""A SANA block for training on a CPU: the same function, as one step of autograd.

Matrix products are torch's, in bfloat16 or float32; all that stands between them is in ``nn/kernels/cpu.cpp``. Against
the plain block it reads and writes a fraction of the memory (``benchmarks/training.py`` has the figures).

B batch, L image tokens, S text tokens, D width, F gated width, M = B L.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from frolic.models.sana.block import ATTENTION_EPS, SanaBlock, SanaState
from frolic.nn.kernels.cpu import Kernels, compiler, kernels, wide

_DTYPES = (torch.bfloat16, torch.float32)


class FusedBlock(SanaBlock):
    """A ``SanaBlock`` that computes in one piece while it is trained in bfloat16 by autocast or in float32, and as ever
    otherwise."""

    def forward(self, state: SanaState) -> SanaState:
        context = state.context
        plain = context.after is None and state.perturb is None and len(context.kv[self.index]) == 2
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else state.x.dtype
        known = dtype in _DTYPES and self.attn.qkv.weight.dtype == torch.float32
        if not (torch.is_grad_enabled() and plain and known and _fits(self)):
            return super().forward(state)
        call = kernels(dtype)
        if call is None:
            return super().forward(state)
        keys, values = (each.transpose(1, 2).flatten(2).to(dtype).contiguous() for each in context.kv[self.index])
        modulation = (self.table + state.modulation).float()
        attn, cross, mlp = self.attn, self.cross, self.mlp
        x = _Block.apply(
            call, state.x.float(), modulation, keys, values, context.mask, state.grid, self.eps,
            (attn.heads, cross.heads), attn.qkv.weight, attn.out.weight, attn.out.bias, cross.q.weight, cross.q.bias,
            cross.out.weight, cross.out.bias, mlp.expand.weight, mlp.expand.bias, mlp.depth.weight, mlp.depth.bias,
            mlp.project.weight,
        )  # fmt: skip
        return replace(state, x=x)


def fuse(transformer: nn.Module) -> bool:
    """Let the blocks that can compute in one piece when they are trained on this CPU; False where none can."""
    if compiler() is None:
        return False
    fit = [block for block in transformer.modules() if isinstance(block, SanaBlock) and _fits(block)]
    for block in fit:
        block.__class__ = FusedBlock
    return bool(fit)


def _fits(block: SanaBlock) -> bool:
    attn, cross, mlp = block.attn, block.cross, block.mlp
    linears = (attn.qkv, attn.out, cross.q, cross.kv, cross.out, mlp.expand, mlp.project)
    width, hidden = attn.out.in_features, mlp.project.in_features
    plain = all(type(linear) is nn.Linear for linear in linears) and attn.qkv.bias is None and not attn.normed
    sizes = (width // attn.heads, width // cross.heads, hidden)
    return plain and isinstance(cross.norm_q, nn.Identity) and not any(size % 16 for size in sizes)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: Kernels, x: Tensor, modulation: Tensor, keys: Tensor, values: Tensor, mask: Tensor,
        grid: tuple[int, int], eps: float, heads: tuple[int, int], *weights: Tensor,
    ) -> Tensor:  # fmt: skip
        x = x.contiguous()
        b, length, d = x.shape
        text = keys.shape[1]
        qkv_w, out_w, out_b, q_w, q_b, cross_w, cross_b, expand_w, expand_b, depth_w, depth_b, project_w = (
            weight.detach() for weight in weights
        )
        cast = [w.to(call.dtype) for w in (qkv_w, out_w, q_w, cross_w, expand_w, project_w)]
        biases = [w.to(call.dtype) for w in (out_b, q_b, cross_b, expand_b)]
        taps = depth_w.flatten(1).t().contiguous()  # [9, 2F]
        hidden = project_w.shape[1]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unbind(1)
        stride, mask = 6 * d, mask.to(torch.uint8).contiguous()
        own, other = heads
        rows = b * length

        n1, mean1, rstd1 = call.new(rows, d), wide(rows), wide(rows)
        call("norm_forward", x, shift1, scale1, stride, n1, mean1, rstd1, b, length, d, eps)
        qkv = n1 @ cast[0].t()
        attended = call.new(rows, d)
        call("linear_attention_forward", qkv, attended, b, length, own, d // own, ATTENTION_EPS)
        a1 = torch.addmm(biases[0], attended, cast[1].t())
        x1, x1_read = wide(b, length, d), call.new(rows, d)
        call("residual_forward", x, a1, gate1, stride, x1, x1_read, b, length, d)
        q = torch.addmm(biases[1], x1_read, cast[2].t())
        read = call.new(rows, d)
        call("cross_attention_forward", q, keys, values, mask, read, b, length, text, other, d // other)
        a2 = torch.addmm(biases[2], read, cast[3].t())
        x2 = wide(b, length, d)
        call("residual_forward", x1, a2, None, 0, x2, None, b, length, d)
        n2, mean2, rstd2 = call.new(rows, d), wide(rows), wide(rows)
        call("norm_forward", x2, shift2, scale2, stride, n2, mean2, rstd2, b, length, d, eps)
        h = torch.addmm(biases[3], n2, cast[4].t())
        gated = call.new(rows, hidden)
        call("gated_convolution_forward", h, taps, depth_b, gated, b, *grid, hidden)
        a3 = gated @ cast[5].t()
        out = wide(b, length, d)
        call("residual_forward", x2, a3, gate2, stride, out, None, b, length, d)
        ctx.save_for_backward(
            x, modulation, keys, values, mask, n1, mean1, rstd1, qkv, attended, a1, x1_read, q, read, x2, n2, mean2,
            rstd2, h, gated, a3, taps, depth_b, *cast,
        )  # fmt: skip
        ctx.call, ctx.sizes = call, (b, length, text, d, hidden, own, other, grid)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (
            x, modulation, keys, values, mask, n1, mean1, rstd1, qkv, attended, a1, x1_read, q, read, x2, n2, mean2,
            rstd2, h, gated, a3, taps, depth_b, qkv_w, out_w, q_w, cross_w, expand_w, project_w,
        ) = ctx.saved_tensors  # fmt: skip
        call, (b, length, text, d, hidden, own, other, grid) = ctx.call, ctx.sizes
        rows, stride = b * length, 6 * d
        _, scale1, gate1, _, scale2, gate2 = modulation.unbind(1)
        g_modulation = wide(b, 6, d)
        g_shift1, g_scale1, g_gate1, g_shift2, g_scale2, g_gate2 = g_modulation.unbind(1)
        g = grads[0].float().clone(memory_format=torch.contiguous_format)

        up = call.new(rows, d)
        call("residual_backward", g, a3, gate2, stride, up, g_gate2, b, length, d)
        g_gated = up @ project_w
        g_project = up.t() @ gated
        g_h, g_taps, g_depth_b = call.new(rows, 2 * hidden), wide(9, 2 * hidden), wide(2 * hidden)
        call("gated_convolution_backward", g_gated, h, taps, depth_b, g_h, g_taps, g_depth_b, b, *grid, hidden)
        g_n = g_h @ expand_w
        g_expand, g_expand_b = g_h.t() @ n2, _column_sums(call, g_h)
        call("norm_backward", g_n, x2, mean2, rstd2, scale2, stride, g, g_shift2, g_scale2, b, length, d)

        call("residual_backward", g, None, None, 0, up, None, b, length, d)
        g_read = up @ cross_w
        g_cross, g_cross_b = up.t() @ read, _column_sums(call, up)
        g_q, g_keys, g_values = call.new(rows, d), call.new(b, text, d), call.new(b, text, d)
        sizes = (b, length, text, other, d // other)
        call("cross_attention_backward", g_read, q, keys, values, mask, g_q, g_keys, g_values, *sizes)
        call("add", g, g_q @ q_w, rows * d)
        g_query, g_q_b = g_q.t() @ x1_read, _column_sums(call, g_q)

        call("residual_backward", g, a1, gate1, stride, up, g_gate1, b, length, d)
        g_attended = up @ out_w
        g_out, g_out_b = up.t() @ attended, _column_sums(call, up)
        g_qkv = call.new(rows, 3 * d)
        call("linear_attention_backward", g_attended, qkv, g_qkv, b, length, own, d // own, ATTENTION_EPS)
        g_n = g_qkv @ qkv_w
        g_input = g_qkv.t() @ n1
        call("norm_backward", g_n, x, mean1, rstd1, scale1, stride, g, g_shift1, g_scale1, b, length, d)
        return (
            None, g, g_modulation, g_keys, g_values, None, None, None, None, g_input.float(), g_out.float(), g_out_b,
            g_query.float(), g_q_b, g_cross.float(), g_cross_b, g_expand.float(), g_expand_b,
            g_taps.t().reshape(2 * hidden, 1, 3, 3), g_depth_b, g_project.float(),
        )  # fmt: skip


def _column_sums(call: Kernels, g: Tensor) -> Tensor:
    out = wide(g.shape[1])
    call("column_sums", g, out, *g.shape)
    return out
