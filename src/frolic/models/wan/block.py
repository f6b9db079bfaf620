"""A block of Wan, and what it works on (arXiv 2503.20314, section 4.2).

B batch, T latent frames, L tokens of a clip, S text tokens, D width, N heads, K head width, F feed-forward width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.context import Read, TextContext, samples_of
from frolic.models.wan.config import WanConfig
from frolic.nn.attention import softmax_attention
from frolic.nn.compiled import SharedCompilation
from frolic.nn.norm import RMSNorm
from frolic.nn.rope import rotate
from frolic.types import Perturb


@dataclass(frozen=True)
class WanState:
    """What travels from block to block: ``x`` [B, L, D] changes; the rest belongs to the step.

    ``modulation`` [B, T', 6, D] and ``time`` [B, T', D] are those of each latent frame, or of all (T' = 1), in float32.
    """

    x: Tensor
    modulation: Tensor
    time: Tensor
    turn: Tensor  # [L, K / 2, 2]
    context: TextContext
    grid: tuple[int, int, int]
    perturb: Perturb | None = None

    def perturbed_rows(self, block: int) -> int:
        """How many samples at the end of the batch ``block`` perturbs."""
        return self.perturb.rows if self.perturb is not None and block in self.perturb.layers else 0


def modulated(x_BLD: Tensor, shift_BTD: Tensor, scale_BTD: Tensor, eps: float) -> Tensor:
    """``LayerNorm(x) (1 + scale) + shift``, frame by frame, in float32 and back."""
    normed = _frames(F.layer_norm(x_BLD.float(), (x_BLD.shape[-1],), eps=eps), shift_BTD)
    return torch.addcmul(shift_BTD[:, :, None], normed, 1 + scale_BTD[:, :, None]).flatten(1, 2).to(x_BLD.dtype)


def gated(x_BLD: Tensor, gate_BTD: Tensor, y_BLD: Tensor) -> Tensor:
    """``x + gate y``, frame by frame, in float32 and back."""
    x, y = _frames(x_BLD.float(), gate_BTD), _frames(y_BLD.float(), gate_BTD)
    return torch.addcmul(x, gate_BTD[:, :, None], y).flatten(1, 2).to(x_BLD.dtype)


def _frames(x_BLD: Tensor, conditions_BTD: Tensor) -> Tensor:
    """[B, T, L / T, D], for as many frames as there are conditions."""
    return x_BLD.unflatten(1, (conditions_BTD.shape[1], -1))


class SelfAttention(nn.Module):
    """Softmax attention over all tokens of a clip, with rotary positions.  ``[B, L, D] -> [B, L, D]``."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        # Over the whole width, before it is split into heads.
        self.norm_q = RMSNorm(config.width, eps=config.norm_eps)
        self.norm_k = RMSNorm(config.width, eps=config.norm_eps)

    def forward(self, x_BLD: Tensor, turn_LK2: Tensor, perturbed_rows: int = 0) -> Tensor:
        q, k, v = self.qkv(x_BLD).chunk(3, dim=-1)
        plain = v[-perturbed_rows:] if perturbed_rows else None
        if perturbed_rows:
            q, k, v = (part[:-perturbed_rows] for part in (q, k, v))
        q = rotate(self.norm_q(q).unflatten(-1, (self.heads, -1)), turn_LK2)
        k = rotate(self.norm_k(k).unflatten(-1, (self.heads, -1)), turn_LK2)
        v = v.unflatten(-1, (self.heads, -1))
        out = softmax_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2).flatten(2)
        # Attention of a token to itself alone is its value.
        return self.out(out if plain is None else torch.cat([out, plain]))


class CrossAttention(nn.Module):
    """Tokens read the text. Keys and values come from ``project``, once a request."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm_q = RMSNorm(config.width, eps=config.norm_eps)
        self.norm_k = RMSNorm(config.width, eps=config.norm_eps)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, text_BSD: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.kv(text_BSD).chunk(2, dim=-1)
        return self._split(self.norm_k(k)), self._split(v)

    def forward(self, x_BLD: Tensor, kv: tuple[Tensor, ...], added_BS: Tensor) -> Tensor:
        k, v = kv
        q = self._split(self.norm_q(self.q(x_BLD)))
        out = softmax_attention(q, k, v, added_BS[:, None, None].to(q.dtype))
        return self.out(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """``[B, L, D] -> [B, L, D]``."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.width, config.hidden)
        self.project = nn.Linear(config.hidden, config.width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.project(F.gelu(self.expand(x_BLD), approximate="tanh"))


class WanBlock(SharedCompilation):
    """Self attention, cross attention (a norm, no gate), feed-forward; adaptive-norm-single modulation."""

    def __init__(self, config: WanConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.eps = config.norm_eps
        self.table = nn.Parameter(torch.randn(6, config.width) / config.width**0.5)
        self.attn = SelfAttention(config)
        self.norm_cross = nn.LayerNorm(config.width, eps=config.norm_eps) if config.cross_norm else None
        self.cross = CrossAttention(config)
        self.mlp = FeedForward(config)

    def forward(self, state: WanState) -> WanState:
        reads, rows = state.context.of(self.index), state.perturbed_rows(self.index)
        return replace(state, x=self.change(state.x, state.modulation, reads, state.turn, rows))

    def change(
        self, x_BLD: Tensor, modulation_BT6D: Tensor, reads: tuple[Read, ...], turn_LK2: Tensor, perturbed_rows: int
    ) -> Tensor:
        """``[B, L, D] -> [B, L, D]``."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.table.float() + modulation_BT6D).unbind(2)
        x = x_BLD
        x = gated(x, gate1, self.attn(modulated(x, shift1, scale1, self.eps), turn_LK2, perturbed_rows))
        parts = samples_of(x, reads)
        read = [self.cross(self._normed(part), *one) for part, one in zip(parts, reads, strict=True)]
        x = x + (read[0] if len(read) == 1 else torch.cat(read))
        return gated(x, gate2, self.mlp(modulated(x, shift2, scale2, self.eps)))

    def _normed(self, x: Tensor) -> Tensor:
        norm = self.norm_cross
        if norm is None:
            return x
        return F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps).to(
            x.dtype
        )
