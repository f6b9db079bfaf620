"""A block of SANA, and what it works on.

B batch, C latent channels, H/W latent height and width, L image tokens, S text tokens, D width, E text width,
N heads, K head width, F feed-forward width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.context import Read, TextContext, samples_of
from frolic.models.sana.config import SanaConfig
from frolic.nn.attention import softmax_attention
from frolic.nn.compiled import SharedCompilation
from frolic.nn.linear_attention import relu_linear_attention
from frolic.nn.norm import RMSNorm, modulated_layer_norm
from frolic.types import Perturb

ATTENTION_EPS = 1e-15


@dataclass(frozen=True)
class SanaState:
    """What travels from block to block: ``x`` [B, L, D] changes; the rest belongs to the step.

    ``context`` holds, of each block's text, keys and values; folded, the three tensors of ``CrossAttention.fold``; of a
    single token, what reading it gives, ``[B, 1, D]``. Its ``mask`` is true where a token is real.
    """

    x: Tensor
    modulation: Tensor  # [B, 6, D]
    time: Tensor  # [B, D]
    context: TextContext
    grid: tuple[int, int]
    perturb: Perturb | None = None

    def perturbed_rows(self, block: int) -> int:
        """How many samples at the end of the batch ``block`` perturbs."""
        return self.perturb.rows if self.perturb is not None and block in self.perturb.layers else 0


class LinearSelfAttention(nn.Module):
    """ReLU linear attention over image tokens.  ``[B, L, D] -> [B, L, D]``."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.normed = config.qk_norm
        self.qkv = nn.Linear(width, 3 * width, bias=config.attention_bias)
        self.out = nn.Linear(width, width)
        self.norm_q = RMSNorm(width, eps=1e-5) if config.qk_norm else nn.Identity()
        self.norm_k = RMSNorm(width, eps=1e-5) if config.qk_norm else nn.Identity()

    def forward(self, x_BLD: Tensor, perturbed_rows: int = 0) -> Tensor:
        qkv = self.qkv(x_BLD)
        if perturbed_rows:
            # Attention of a token to itself alone is its value.
            out = torch.cat([self._attend(qkv[:-perturbed_rows]), qkv[-perturbed_rows:].chunk(3, dim=-1)[2]])
        else:
            out = self._attend(qkv)
        out = self.out(out)
        return out.clamp(-65504, 65504) if out.dtype == torch.float16 else out

    def _attend(self, qkv: Tensor) -> Tensor:
        if self.normed:
            q, k, v = qkv.chunk(3, dim=-1)
            qkv = torch.cat([self.norm_q(q), self.norm_k(k), v], dim=-1)
        # One copy makes every head of all three contiguous; what follows only looks at it in other orders.
        by_head = rearrange(qkv, "b l (three n k) -> three b n l k", three=3, n=self.heads).contiguous()
        q, k, v = by_head.transpose(2, 3)
        return relu_linear_attention(q, k, v, eps=ATTENTION_EPS).flatten(2)


class CrossAttention(nn.Module):
    """Image tokens read the text. Keys and values come from ``project``, once a request."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.cross_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm_q = RMSNorm(width, eps=1e-5) if config.qk_norm else nn.Identity()
        self.norm_k = RMSNorm(width, eps=1e-5) if config.qk_norm else nn.Identity()

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b l (n k) -> b n l k", n=self.heads)

    def project(self, text_BSD: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.kv(text_BSD).chunk(2, dim=-1)
        return self._split(self.norm_k(k)), self._split(v)

    def only(self, v_BN1K: Tensor) -> Tensor:
        """What every token gets from a text of one token, ``[B, 1, D]``: all the weight is on it, whatever is asked."""
        return self.out(rearrange(v_BN1K, "b n one k -> b one (n k)"))

    def can_fold(self, tokens: int) -> bool:
        """Whether folding is exact and pays: the text is short and nothing stands between the products. A linear that
        was replaced, by an adapter or a quantized one, is called as it is. In half precision the folded products round
        half as much again as those of fused attention, whose logits are float32."""
        plain = type(self.q) is nn.Linear and type(self.out) is nn.Linear and isinstance(self.norm_q, nn.Identity)
        exact = self.q.weight.dtype == self.out.weight.dtype == torch.float32
        return plain and exact and 2 * self.heads * tokens <= self.q.in_features

    def fold(self, k_BNSK: Tensor, v_BNSK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys times the query projection ``[B, D, N S]``, with their bias ``[B, 1, N S]``, and values times the
        output projection ``[B, N S, D]``: with fewer than D head-tokens, two products per image token are spared."""
        heads = k_BNSK.shape[-1]
        q_NKD, q_bias_NK1 = self.q.weight.unflatten(0, (-1, heads)), self.q.bias.view(-1, heads, 1)
        out_NKD = rearrange(self.out.weight, "d (n k) -> n k d", n=self.heads)
        scaled = k_BNSK * heads**-0.5
        keys = rearrange(scaled @ q_NKD, "b n s d -> b d (n s)").contiguous()
        bias = rearrange(scaled @ q_bias_NK1, "b n s one -> b one (n s)")
        return keys, bias, (v_BNSK @ out_NKD).flatten(1, 2)

    def _forward_folded(self, x_BLD: Tensor, kv: tuple[Tensor, ...], mask_BS: Tensor) -> Tensor:
        keys_BDX, bias_B1X, values_BXD = kv
        logits = torch.baddbmm(bias_B1X, x_BLD, keys_BDX).unflatten(-1, (self.heads, -1))
        weights = logits.masked_fill(~mask_BS[:, None, None, :], -torch.inf).softmax(dim=-1)
        return torch.baddbmm(self.out.bias, weights.flatten(2), values_BXD)

    def forward(self, x_BLD: Tensor, kv: tuple[Tensor, ...], mask_BS: Tensor) -> Tensor:
        if len(kv) == 1:
            return kv[0].expand_as(x_BLD)
        if len(kv) == 3:
            return self._forward_folded(x_BLD, kv, mask_BS)
        k, v = kv
        q = self._split(self.norm_q(self.q(x_BLD)))
        out = softmax_attention(q, k, v, mask_BS[:, None, None, :])
        return self.out(rearrange(out, "b n l k -> b l (n k)"))


class GLUMBConv(nn.Module):
    """Gated inverted bottleneck: widen, mix 3x3 neighbours per channel, gate, narrow.  ``[B, L, D] -> [B, L, D]``.

    The 3x3 convolution is also what tells the model where a token is: up to 1024 pixels, SANA has no other positions.
    """

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        inner = 2 * config.hidden
        self.expand = nn.Linear(config.width, inner)
        self.depth = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x_BLD: Tensor, grid: tuple[int, int]) -> Tensor:
        # The widest tensor of the model: where no gradient needs it as it was, it is overwritten.
        spare = not torch.is_grad_enabled()
        h = F.silu(self.expand(x_BLD), inplace=spare)
        # A channels-last picture has the memory of tokens, so these two moves copy nothing.
        h = self.depth(rearrange(h, "b (h w) f -> b f h w", h=grid[0], w=grid[1]))
        value, gate = rearrange(h, "b f h w -> b (h w) f").chunk(2, dim=-1)
        gate = F.silu(gate)
        return self.project(gate.mul_(value) if spare else gate * value)


class SanaBlock(SharedCompilation):
    """Self attention, cross attention (no norm, no gate before it), feed-forward; adaptive-norm-single modulation."""

    def __init__(self, config: SanaConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.eps = config.norm_eps
        self.table = nn.Parameter(torch.randn(6, config.width) / config.width**0.5)
        self.attn = LinearSelfAttention(config)
        self.cross = CrossAttention(config)
        self.mlp = GLUMBConv(config)

    def forward(self, state: SanaState) -> SanaState:
        reads, rows = state.context.of(self.index), state.perturbed_rows(self.index)
        return replace(state, x=self.change(state.x, state.modulation, reads, state.grid, rows))

    def change(
        self,
        x_BLD: Tensor,
        modulation_B6D: Tensor,
        reads: tuple[Read, ...],
        grid: tuple[int, int],
        perturbed_rows: int,
    ) -> Tensor:
        """``[B, L, D] -> [B, L, D]``."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.table + modulation_B6D).chunk(6, dim=1)
        x = x_BLD
        x = torch.addcmul(x, gate1, self.attn(modulated_layer_norm(x, shift1, scale1, self.eps), perturbed_rows))
        read = [self.cross(part, *one) for part, one in zip(samples_of(x, reads), reads, strict=True)]
        x = x + (read[0] if len(read) == 1 else torch.cat(read))
        return torch.addcmul(x, gate2, self.mlp(modulated_layer_norm(x, shift2, scale2, self.eps), grid))
