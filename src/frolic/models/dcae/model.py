"""Deep-compression autoencoder with any number of stages.

B batch, C channels, H/W height and width, L = H W positions, N heads, K head width, G groups of q, k, v.

Convolutions here are fastest channels-last; whoever builds the model chooses the memory format, the code only avoids
undoing it.
"""

from __future__ import annotations

from functools import partial

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.dcae.config import VIT, DCAEConfig, Stage
from frolic.nn.norm import ChannelRMSNorm

_EPS = 1e-5
_ATTENTION_EPS = 1e-15


class ResBlock(nn.Module):
    """Two 3x3 convolutions with SiLU between, a norm at the end, and a skip.  ``[B, C, H, W]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = ChannelRMSNorm(width, eps=_EPS, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(F.silu(self.conv1(x))))


class LocalScale(nn.Module):
    """One more scale of q, k and v: a depthwise convolution, then a mix within each head."""

    def __init__(self, channels: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.mix = nn.Conv2d(channels, channels, 1, groups=3 * heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.depth(x))


class MultiScaleAttention(nn.Module):
    """ReLU linear attention over q, k, v at several scales, with a skip.  ``[B, C, H, W]``.

    The channels of the concatenated q, k, v are dealt to heads in runs of three head widths, as in the published
    weights; so a "query" of one head may come from what the linear calls a key.
    """

    def __init__(self, width: int, head_dim: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        heads = width // head_dim
        inner = heads * head_dim
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.scales = nn.ModuleList(LocalScale(3 * inner, heads, kernel) for kernel in kernels)
        self.out = nn.Linear(inner * (1 + len(kernels)), width, bias=False)
        self.norm = ChannelRMSNorm(width, eps=_EPS, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        qkv = self.qkv(x.movedim(1, -1)).movedim(-1, 1)
        qkv = torch.cat([qkv, *(scale(qkv) for scale in self.scales)], dim=1)
        q, k, v = rearrange(qkv, "b (g three k) h w -> three b g k (h w)", three=3, k=self.head_dim)
        mixed = self._attend(F.relu(q), F.relu(k), v)
        out = self.out(rearrange(mixed, "b g k (h w) -> b h w (g k)", h=height, w=width)).movedim(-1, 1)
        return x + self.norm(out)

    def _attend(self, q_BGKL: Tensor, k_BGKL: Tensor, v_BGKL: Tensor) -> Tensor:
        if q_BGKL.shape[-1] <= self.head_dim:
            # Few positions: the quadratic order is the cheaper one, and the one published models were trained with.
            scores = (k_BGKL.transpose(-1, -2) @ q_BGKL).float()
            scores = scores / (scores.sum(dim=2, keepdim=True) + _ATTENTION_EPS)
            return v_BGKL @ scores.to(v_BGKL.dtype)
        with torch.autocast(q_BGKL.device.type, enabled=False):
            q, k, v = q_BGKL.float(), k_BGKL.float(), v_BGKL.float()
            total = (v @ k.transpose(-1, -2)) @ q
            norm = k.sum(dim=-1)[:, :, None] @ q
            return (total / (norm + _ATTENTION_EPS)).to(v_BGKL.dtype)


class GatedConv(nn.Module):
    """The feed-forward of an EfficientViT block: widen, mix 3x3 per channel, gate, narrow, norm, skip."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        inner = 2 * ratio * width
        self.expand = nn.Conv2d(width, inner, 1)
        self.depth = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Conv2d(ratio * width, width, 1, bias=False)
        self.norm = ChannelRMSNorm(width, eps=_EPS, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.depth(F.silu(self.expand(x))).chunk(2, dim=1)
        return x + self.norm(self.project(value * F.silu(gate)))


class EfficientViTBlock(nn.Module):
    def __init__(self, width: int, head_dim: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.attn = MultiScaleAttention(width, head_dim, kernels)
        self.mlp = GatedConv(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attn(x))


class Down(nn.Module):
    """Half the side. The shortcut folds 2x2 pixels into channels and averages groups of them."""

    def __init__(self, inside: int, outside: int, kind: str, shortcut: bool = True) -> None:
        super().__init__()
        self.fold = kind == "pixel_unshuffle"
        self.groups = outside if shortcut else 0
        if self.fold:
            self.conv = nn.Conv2d(inside, outside // 4, 3, padding=1)
        else:
            self.conv = nn.Conv2d(inside, outside, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.fold:
            y = F.pixel_unshuffle(y, 2)
        if self.groups:
            y = y + reduce(F.pixel_unshuffle(x, 2), "b (c g) h w -> b c h w", "mean", c=self.groups)
        return y


class Up(nn.Module):
    """Twice the side. The shortcut repeats channels and unfolds them into 2x2 pixels."""

    def __init__(self, inside: int, outside: int, kind: str, shortcut: bool = True) -> None:
        super().__init__()
        self.interpolate = kind == "interpolate"
        self.repeats = outside * 4 // inside if shortcut else 0
        self.conv = nn.Conv2d(inside, outside if self.interpolate else outside * 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.interpolate:
            y = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        else:
            y = F.pixel_shuffle(self.conv(x), 2)
        if self.repeats:
            y = y + F.pixel_shuffle(repeat(x, "b c h w -> b (c r) h w", r=self.repeats), 2)
        return y


def _blocks(stage: Stage, head_dim: int) -> list[nn.Module]:
    make = (
        partial(EfficientViTBlock, stage.width, head_dim, stage.kernels)
        if stage.kind == VIT
        else partial(ResBlock, stage.width)
    )
    return [make() for _ in range(stage.layers)]


class Encoder(nn.Module):
    """``[B, 3, H, W] -> [B, C, H / stride, W / stride]``. A first stage without layers starts at half the side."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        stages = config.encoder
        if stages[0].layers > 0:
            self.conv_in: nn.Module = nn.Conv2d(config.in_channels, stages[0].width, 3, padding=1)
        else:
            self.conv_in = Down(config.in_channels, stages[1].width, config.down, shortcut=False)
        built = []
        for i, stage in enumerate(stages):
            layers = _blocks(stage, config.head_dim)
            if i < len(stages) - 1 and stage.layers > 0:
                layers.append(Down(stage.width, stages[i + 1].width, config.down))
            built.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(built)
        self.conv_out = nn.Conv2d(stages[-1].width, config.latent_channels, 3, padding=1)
        self.shortcut = config.latent_channels if config.encoder_out_shortcut else 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.stages:
            x = stage(x)
        z = self.conv_out(x)
        return z + reduce(x, "b (c g) h w -> b c h w", "mean", c=self.shortcut) if self.shortcut else z


class Decoder(nn.Module):
    """``[B, C, h, w] -> [B, 3, h stride, w stride]``. Stages are numbered as the encoder's and run backwards."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        stages = config.decoder
        last = stages[-1].width
        self.conv_in = nn.Conv2d(config.latent_channels, last, 3, padding=1)
        self.repeats = last // config.latent_channels if config.decoder_in_shortcut else 0
        built = []
        for i, stage in enumerate(stages):
            layers = _blocks(stage, config.head_dim)
            if i < len(stages) - 1 and stage.layers > 0:
                layers.insert(0, Up(stages[i + 1].width, stage.width, config.up))
            built.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(built)
        width = stages[0].width if stages[0].layers > 0 else stages[1].width
        self.norm_out = ChannelRMSNorm(width, eps=_EPS, bias=True)
        self.activation = {"relu": F.relu, "silu": F.silu}[config.decoder_out_activation]
        if stages[0].layers > 0:
            self.conv_out: nn.Module = nn.Conv2d(width, config.in_channels, 3, padding=1)
        else:
            self.conv_out = Up(width, config.in_channels, config.up, shortcut=False)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        if self.repeats:
            x = x + repeat(z, "b c h w -> b (c r) h w", r=self.repeats)
        for stage in reversed(self.stages):
            x = stage(x)
        return self.conv_out(self.activation(self.norm_out(x)))


class DCAE(nn.Module):
    """Deterministic autoencoder; there is nothing to sample in its latents."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` in [-1, 1], sides multiples of the stride, to latents ``[B, C, h, w]``."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Latents ``[B, C, h, w]`` to pixels ``[B, 3, H, W]``, about in [-1, 1]."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(reconstruction, latents)``: what training calls."""
        z = self.encode(x)
        return self.decode(z), z
