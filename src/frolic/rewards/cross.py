"""The cross attention that MPS puts on top of CLIP: places of a picture read the words of a prompt.

N pictures, P places, S tokens, D width, H heads, K width of a head. All heads share one key and one value (Shazeer,
arXiv 1911.02150); the self attention turns its queries and keys by place (RoPE, arXiv 2104.09864) and stands beside its
feed-forward part, as in PaLM (arXiv 2204.02311), with SwiGLU (arXiv 2002.05202).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LAYERS, _HEADS, _HEAD, _WIDER = 4, 16, 64, 4


class Cross(nn.Module):
    """``layers`` times cross attention, then self attention."""

    def __init__(self, width: int, layers: int = _LAYERS) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))

    def forward(self, x_NPD: Tensor, text_NSD: Tensor, heard_NS: Tensor, *, rough: bool = False) -> Tensor:
        """``[N, P, D]``. Tokens that are not ``heard_NS`` (bool) are passed over. ``rough``: angles are computed in the
        dtype of ``x_NPD``, as published, instead of float32."""
        for layer in self.layers:
            x_NPD = layer(x_NPD, text_NSD, heard_NS, rough)
        return x_NPD


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross = _CrossAttention(width)
        self.own = _SelfAttention(width)

    def forward(self, x_NPD: Tensor, text_NSD: Tensor, heard_NS: Tensor, rough: bool) -> Tensor:
        x_NPD = x_NPD + self.cross(x_NPD, text_NSD, heard_NS)
        return x_NPD + torch.as_tensor(self.own(x_NPD, rough))


class _CrossAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, _HEADS * _HEAD, bias=False)
        self.to_kv = nn.Linear(width, 2 * _HEAD, bias=False)
        self.to_out = nn.Linear(_HEADS * _HEAD, width, bias=False)
        self.ff_in = nn.Linear(width, 2 * _WIDER * width, bias=False)
        self.ff_out = nn.Linear(_WIDER * width, width, bias=False)

    def forward(self, x_NPD: Tensor, text_NSD: Tensor, heard_NS: Tensor) -> Tensor:
        x_NPD = self.norm(x_NPD)
        k_NSK, v_NSK = self.to_kv(text_NSD).chunk(2, dim=-1)
        read = self.to_out(_attend(self.to_q(x_NPD), k_NSK, v_NSK, heard_NS[:, None, None]))
        return torch.as_tensor(read + self.ff_out(_gated(self.ff_in(x_NPD))))


class _SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.widths = (_HEADS * _HEAD, _HEAD, _HEAD, 2 * _WIDER * width)
        self.norm = nn.LayerNorm(width)
        # A buffer, because published files hold it.
        self.register_buffer("frequencies", 10000 ** (-torch.arange(0, _HEAD, 2).float() / _HEAD))
        self.frequencies: Tensor
        self.fused = nn.Linear(width, sum(self.widths), bias=False)
        self.attn_out = nn.Linear(_HEADS * _HEAD, width, bias=False)
        self.ff_out = nn.Linear(_WIDER * width, width, bias=False)

    def forward(self, x_NPD: Tensor, rough: bool) -> Tensor:
        q_NPE, k_NPK, v_NPK, wide = self.fused(self.norm(x_NPD)).split(self.widths, dim=-1)
        turn = _Turn(self.frequencies.to(x_NPD.dtype) if rough else self.frequencies, x_NPD.shape[1])
        q_NPE = turn(q_NPE.unflatten(-1, (_HEADS, _HEAD)).transpose(1, 2)).transpose(1, 2).flatten(2)
        return torch.as_tensor(self.attn_out(_attend(q_NPE, turn(k_NPK), v_NPK)) + self.ff_out(_gated(wide)))


class _Turn:
    """Rotary places: the first half of a head's numbers are turned with the second."""

    def __init__(self, frequencies: Tensor, places: int) -> None:
        order = torch.arange(places, device=frequencies.device, dtype=frequencies.dtype)
        angles = torch.outer(order, frequencies).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()

    def __call__(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos.to(x.dtype) + torch.cat((-second, first), dim=-1) * self.sin.to(x.dtype)


def _attend(q_NPE: Tensor, k_NSK: Tensor, v_NSK: Tensor, heard: Tensor | None = None) -> Tensor:
    q_NHPK = q_NPE.unflatten(-1, (_HEADS, _HEAD)).transpose(1, 2)
    k_NHSK, v_NHSK = (x[:, None].expand(-1, _HEADS, -1, -1) for x in (k_NSK, v_NSK))
    return F.scaled_dot_product_attention(q_NHPK, k_NHSK, v_NHSK, attn_mask=heard).transpose(1, 2).flatten(2)


def _gated(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, dim=-1)
    return F.silu(gate) * value
