"""Deep-compression autoencoder with any number of stages.

B batch, C channels, H/W height and width, L = H W positions, N heads, K head width, G groups of q, k, v.

Convolutions here are fastest channels-last; whoever builds the model chooses the memory format, the code only avoids
undoing it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.dcae.config import VIT, DCAEConfig, Stage
from frolic.models.dcae.local import Doubling, Local, apart, doubled, folded, silu, unfolded, unfolding
from frolic.nn.norm import ChannelRMSNorm

_EPS = 1e-5
_ATTENTION_EPS = 1e-15


Merged = TypeVar("Merged", Doubling, nn.Conv2d)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with SiLU between, a norm at the end, and a skip.  ``[B, C, H, W]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = ChannelRMSNorm(width, eps=_EPS, bias=True)

    def layer(self) -> Local:
        return Local((self.conv1, silu, self.conv2, self.norm), ())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer()(x)


class LocalScale(nn.Module):
    """One more scale of q, k and v: a depthwise convolution, then a mix within each head."""

    def __init__(self, channels: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.mix = nn.Conv2d(channels, channels, 1, groups=3 * heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.mixed(self.depth(x))

    def mixed(self, x: Tensor) -> Tensor:
        """The 1x1 convolution in groups, as one product a group: as a convolution it is many times slower."""
        groups = self.mix.groups
        weight = rearrange(self.mix.weight, "(g o) k 1 1 -> g k o", g=groups)
        split = rearrange(x, "b (g k) h w -> g (b h w) k", g=groups)
        mixed = torch.bmm(split, weight)
        return rearrange(mixed, "g (b h w) o -> b h w (g o)", b=x.shape[0], h=x.shape[2], w=x.shape[3]).movedim(-1, 1)


class MultiScaleAttention(nn.Module):
    """ReLU linear attention over q, k, v at several scales, with a skip.  ``[B, C, H, W]``.

    The channels of the concatenated q, k, v are dealt to heads in runs of three head widths, as in the published
    weights; so a "query" of one head may come from what the linear calls a key.

    All that a position reads of the others is ``summary``; who has it can compute the rest a few rows at a time.
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
        qkv = self.project(x)
        q, k, v = self.heads(torch.cat([qkv, *(scale(qkv) for scale in self.scales)], dim=1))
        few = self.is_small(x.shape[-2] * x.shape[-1])
        mixed = _quadratic(q, k, v) if few else self.read(q, self.summary(k, v), v.dtype)
        return x + self.finish(mixed, x.shape[-2])

    def is_small(self, positions: int) -> bool:
        """Whether the quadratic order of the products is the cheaper one: published models were trained with it."""
        return positions <= self.head_dim

    def project(self, x: Tensor) -> Tensor:
        return self.qkv(x.movedim(1, -1)).movedim(-1, 1)

    def heads(self, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v ``[B, G, L, K]`` from those of every scale, side by side in the channels; ReLU is taken."""
        q, k, v = rearrange(scales, "b (g three k) h w -> three b g (h w) k", three=3, k=self.head_dim)
        return F.relu(q), F.relu(k), v

    def summary(self, k_BGLK: Tensor, v_BGLK: Tensor) -> Tensor:
        """``[B, G, K, K + 1]``: the sum of ``k^T v`` and, in the last column, of ``k``, in float32. Adds up over parts
        of a picture."""
        with torch.autocast(k_BGLK.device.type, enabled=False):
            k, v = k_BGLK.float(), v_BGLK.float()
            return torch.cat([k.transpose(-1, -2) @ v, k.sum(dim=-2)[..., None]], dim=-1)

    def read(self, q_BGLK: Tensor, summary: Tensor, dtype: torch.dtype) -> Tensor:
        """What every position gets, ``[B, G, L, K]``."""
        with torch.autocast(q_BGLK.device.type, enabled=False):
            total = q_BGLK.float() @ summary
            return (total[..., :-1] / (total[..., -1:] + _ATTENTION_EPS)).to(dtype)

    def finish(self, mixed_BGLK: Tensor, height: int) -> Tensor:
        out = self.out(rearrange(mixed_BGLK, "b g (h w) k -> b h w (g k)", h=height))
        return self.norm(out.movedim(-1, 1))


def _quadratic(q_BGLK: Tensor, k_BGLK: Tensor, v_BGLK: Tensor) -> Tensor:
    scores = (q_BGLK @ k_BGLK.transpose(-1, -2)).float()
    scores = scores / (scores.sum(dim=-1, keepdim=True) + _ATTENTION_EPS)
    return scores.to(v_BGLK.dtype) @ v_BGLK


class GatedConv(nn.Module):
    """The feed-forward of an EfficientViT block: widen, mix 3x3 per channel, gate, narrow, norm, skip."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        inner = 2 * ratio * width
        self.expand = nn.Conv2d(width, inner, 1)
        self.depth = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Conv2d(ratio * width, width, 1, bias=False)
        self.norm = ChannelRMSNorm(width, eps=_EPS, bias=True)

    def layer(self) -> Local:
        expand, project = partial(_pointwise, self.expand), partial(_pointwise, self.project)
        return Local((expand, silu, self.depth, _gated, project, self.norm), ())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer()(x)


def _gated(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, dim=1)
    gate = F.silu(gate)
    return value * gate if torch.is_grad_enabled() else gate.mul_(value)


def _pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution, as the matrix product that it is."""
    return F.linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias).movedim(-1, 1)


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

    def layer(self) -> Local:
        steps = (self.conv, folded) if self.fold else (self.conv,)
        return Local(steps, (folded, partial(_means, channels=self.groups)) if self.groups else None)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer()(x)


class Up(nn.Module):
    """Twice the side. The shortcut repeats channels and unfolds them into 2x2 pixels."""

    def __init__(self, inside: int, outside: int, kind: str, shortcut: bool = True) -> None:
        super().__init__()
        self.interpolate = kind == "interpolate"
        self.repeats = outside * 4 // inside if shortcut else 0
        self.conv = nn.Conv2d(inside, outside if self.interpolate else outside * 4, 3, padding=1)
        self._merged: tuple[tuple[int, int, torch.dtype], Doubling | nn.Conv2d] | None = None

    def layer(self) -> Local:
        shortcut = (partial(_repeated, times=self.repeats), unfolded) if self.repeats else None
        weight = self.conv.weight
        frozen = not (torch.is_grad_enabled() or weight.is_inference()) and weight.device.type == "cpu"
        if frozen and self.interpolate:
            return Local((self._kept(Doubling.of),), shortcut)
        if frozen and weight.dtype == torch.float32:  # another would lose its small numbers beside the shortcut's 1
            return Local((self._kept(partial(unfolding, repeats=self.repeats)), apart), None)
        self._merged = None
        return Local((doubled, self.conv) if self.interpolate else (self.conv, unfolded), shortcut)

    def _kept(self, merge: Callable[[nn.Conv2d], Merged]) -> Merged:
        """``merge`` of the convolution, kept until the weights change or move."""
        weight = self.conv.weight
        state = (weight.data_ptr(), weight._version, weight.dtype)
        if self._merged is None or self._merged[0] != state:
            self._merged = None  # before there are two
            self._merged = state, merge(self.conv)
        found: Any = self._merged[1]
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Up:
        """What ``to`` and its like come down to."""
        self._merged = None
        super()._apply(fn, recurse)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.layer()(x)


def _means(x: Tensor, channels: int) -> Tensor:
    return reduce(x, "b (c g) h w -> b c h w", "mean", c=channels)


def _repeated(x: Tensor, times: int) -> Tensor:
    return repeat(x, "b c h w -> b (c r) h w", r=times)


def _blocks(stage: Stage, head_dim: int) -> list[nn.Module]:
    make = (
        partial(EfficientViTBlock, stage.width, head_dim, stage.kernels)
        if stage.kind == VIT
        else partial(ResBlock, stage.width)
    )
    return [make() for _ in range(stage.layers)]


Layer = Local | MultiScaleAttention


def _layer(module: nn.Module) -> Local:
    if isinstance(module, nn.Conv2d):
        return Local((module,), None)
    assert isinstance(module, ResBlock | GatedConv | Up | Down)
    return module.layer()


def _layers(stages: Iterable[nn.Module]) -> list[Layer]:
    found: list[Layer] = []
    for module in (module for stage in stages for module in stage.children()):
        if isinstance(module, EfficientViTBlock):
            found += [module.attn, module.mlp.layer()]
        else:
            found.append(_layer(module))
    return found


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
        return self._last()(x)

    def layers(self) -> list[Layer]:
        """All that ``forward`` does, one after the other."""
        return [_layer(self.conv_in), *_layers(self.stages), self._last()]

    def _last(self) -> Local:
        return Local((self.conv_out,), (partial(_means, channels=self.shortcut),) if self.shortcut else None)


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
        x = self._first()(z)
        for stage in reversed(self.stages):
            x = stage(x)
        return self._last()(x)

    def layers(self) -> list[Layer]:
        """All that ``forward`` does, one after the other."""
        return [self._first(), *_layers(reversed(self.stages)), self._last()]

    def _first(self) -> Local:
        return Local((self.conv_in,), (partial(_repeated, times=self.repeats),) if self.repeats else None)

    def _last(self) -> Local:
        return Local((self.norm_out, self.activation, *_layer(self.conv_out).steps), None)


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
