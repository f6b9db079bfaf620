"""The SANA transformer as ``embed -> blocks -> head``.

B batch, C latent channels, H/W latent height and width, L image tokens, S text tokens, D width, E text width,
N heads, K head width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.sana.config import SanaConfig
from frolic.nn.attention import softmax_attention
from frolic.nn.embed import TimestepEmbedder, patchify, unpatchify
from frolic.nn.linear_attention import relu_linear_attention
from frolic.nn.norm import RMSNorm, modulated_layer_norm

_ATTENTION_EPS = 1e-15


@dataclass(frozen=True)
class SanaContext:
    """All that the blocks need of the text, computed once a request.

    ``kv`` holds per block what its cross attention reads: keys and values, each ``[B, N, S, K]``, or, folded, the
    three tensors of ``CrossAttention.fold``; ``mask`` is ``[B, S]``.
    """

    kv: tuple[tuple[Tensor, ...], ...]
    mask: Tensor

    @staticmethod
    def cat(parts: Sequence[SanaContext]) -> SanaContext:
        """Stack contexts of equal text length along the batch."""
        blocks = zip(*(part.kv for part in parts), strict=True)
        kv = tuple(tuple(torch.cat(tensors) for tensors in zip(*block, strict=True)) for block in blocks)
        return SanaContext(kv, torch.cat([part.mask for part in parts]))

    def rows(self, index: Tensor) -> SanaContext:
        """The samples that ``index`` [B'] names, in its order (repeats allowed)."""
        return SanaContext(tuple(tuple(tensor[index] for tensor in block) for block in self.kv), self.mask[index])


@dataclass(frozen=True)
class SanaState:
    """What travels from block to block: ``x`` [B, L, D] changes; the rest belongs to the step."""

    x: Tensor
    modulation: Tensor  # [B, 6, D]
    time: Tensor  # [B, D]
    context: SanaContext
    grid: tuple[int, int]


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

    def forward(self, x_BLD: Tensor) -> Tensor:
        qkv = self.qkv(x_BLD)
        if self.normed:
            q, k, v = qkv.chunk(3, dim=-1)
            qkv = torch.cat([self.norm_q(q), self.norm_k(k), v], dim=-1)
        # One copy makes every head of all three contiguous; what follows only looks at it in other orders.
        by_head = rearrange(qkv, "b l (three n k) -> three b n l k", three=3, n=self.heads).contiguous()
        q, k, v = by_head.transpose(2, 3)
        out = relu_linear_attention(q, k, v, eps=_ATTENTION_EPS).flatten(2)
        if out.dtype == torch.float16:
            out = out.clamp(-65504, 65504)
        return self.out(out)


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

    def can_fold(self, tokens: int) -> bool:
        """Whether folding is exact and pays: the text is short and nothing stands between the products. A linear that
        was replaced, by an adapter or a quantized one, is called as it is."""
        plain = type(self.q) is nn.Linear and type(self.out) is nn.Linear and isinstance(self.norm_q, nn.Identity)
        return plain and 2 * self.heads * tokens <= self.q.in_features

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
        if len(kv) == 3:
            return self._forward_folded(x_BLD, kv, mask_BS)
        k, v = kv
        q = self._split(self.norm_q(self.q(x_BLD)))
        out = softmax_attention(q, k, v, mask_BS[:, None, None, :])
        return self.out(rearrange(out, "b n l k -> b l (n k)"))


class GLUMBConv(nn.Module):
    """Gated inverted bottleneck: widen, mix 3x3 neighbours per channel, gate, narrow.  ``[B, L, D] -> [B, L, D]``.

    The 3x3 convolution is also what tells the model where a token is: SANA has no positional encoding.
    """

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        inner = 2 * config.hidden
        self.expand = nn.Linear(config.width, inner)
        self.depth = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x_BLD: Tensor, grid: tuple[int, int]) -> Tensor:
        h = F.silu(self.expand(x_BLD))
        # A channels-last picture has the memory of tokens, so these two moves copy nothing.
        h = self.depth(rearrange(h, "b (h w) f -> b f h w", h=grid[0], w=grid[1]))
        value, gate = rearrange(h, "b f h w -> b (h w) f").chunk(2, dim=-1)
        return self.project(value * F.silu(gate))


class SanaBlock(nn.Module):
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
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.table + state.modulation).chunk(6, dim=1)
        x = state.x
        x = torch.addcmul(x, gate1, self.attn(modulated_layer_norm(x, shift1, scale1, self.eps)))
        x = x + self.cross(x, state.context.kv[self.index], state.context.mask)
        x = torch.addcmul(x, gate2, self.mlp(modulated_layer_norm(x, shift2, scale2, self.eps), state.grid))
        return replace(state, x=x)


class Caption(nn.Module):
    """Project text features to the model's width and normalise them.  ``[B, S, E] -> [B, S, D]``."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.caption_channels, config.width)
        self.fc2 = nn.Linear(config.width, config.width)
        self.norm = RMSNorm(config.width, eps=1e-5)

    def forward(self, text_BSE: Tensor) -> Tensor:
        return self.norm(self.fc2(F.gelu(self.fc1(text_BSE), approximate="tanh")))


class SanaTransformer(nn.Module):
    """Predicts the flow's velocity ``noise - data`` of noised latents, given a timestep and text."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        self.patch = nn.Linear(config.in_channels * patch * patch, width)
        self.time = TimestepEmbedder(width)
        self.modulation = nn.Linear(width, 6 * width)
        self.caption = Caption(config)
        self.blocks = nn.ModuleList(SanaBlock(config, i) for i in range(config.layers))
        self.table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.out = nn.Linear(width, patch * patch * config.out_channels)

    def context(self, text_BSE: Tensor, mask_BS: Tensor, *, fold: bool = True) -> SanaContext:
        """Project the text for every block. ``mask`` is True where a token is real; each row needs at least one.

        ``fold`` spares work at every step that follows where the text is short; for a single step it costs more.
        """
        text_BSD = self.caption(text_BSE)
        kv: list[tuple[Tensor, ...]] = []
        for block in self._blocks():
            k, v = block.cross.project(text_BSD)
            kv.append(block.cross.fold(k, v) if fold and block.cross.can_fold(k.shape[2]) else (k, v))
        return SanaContext(tuple(kv), mask_BS.bool())

    def embed(self, x_BCHW: Tensor, t_B: Tensor, context: SanaContext) -> SanaState:
        """Latents and timesteps (0 to 1000, times the config's ``timestep_scale``) to the first block's state."""
        patch = self.config.patch_size
        grid = (x_BCHW.shape[-2] // patch, x_BCHW.shape[-1] // patch)
        time = self.time(t_B * self.config.timestep_scale)
        modulation = rearrange(self.modulation(F.silu(time)), "b (six d) -> b six d", six=6)
        return SanaState(self.patch(patchify(x_BCHW, patch)), modulation, time, context, grid)

    def head(self, state: SanaState) -> Tensor:
        """The last state to a velocity ``[B, C, H, W]``."""
        shift, scale = (self.table + state.time[:, None]).chunk(2, dim=1)
        x = self.out(modulated_layer_norm(state.x, shift, scale, 1e-6))
        return unpatchify(x, state.grid, self.config.patch_size)

    def denoise(self, x_BCHW: Tensor, t_B: Tensor, context: SanaContext) -> Tensor:
        """Velocity for one step of a request whose text was prepared by ``context``."""
        state = self.embed(x_BCHW, t_B, context)
        for block in self.blocks:
            state = block(state)
        return self.head(state)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, text_BSE: Tensor, mask_BS: Tensor) -> Tensor:
        """``context`` and ``denoise`` in one: what training calls."""
        return self.denoise(x_BCHW, t_B, self.context(text_BSE, mask_BS, fold=False))

    def _blocks(self) -> list[SanaBlock]:
        blocks = list(self.blocks)
        assert all(isinstance(block, SanaBlock) for block in blocks)
        return blocks  # type: ignore[return-value]
