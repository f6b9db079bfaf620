"""The Wan autoencoder (arXiv 2503.20314, section 4.1): clips to latents and back, whole or in parts.

B batch, C channels, T/H/W frames, height and width of a clip, t/h/w of its latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.wan_vae.config import WanVAEConfig
from frolic.models.wan_vae.layers import (
    Chain,
    ChannelNorm,
    CopyUp,
    Down,
    MeanDown,
    Memory,
    Middle,
    Residual,
    Up,
    causal_conv,
    run,
)


class Encoder(nn.Module):
    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        widths = (config.stages[0], *config.stages)
        self.conv_in = causal_conv(3 * (config.patch or 1) ** 2, widths[0])
        blocks: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            resnets = [Residual(inputs if n == 0 else outputs, outputs) for n in range(config.layers)]
            halves = index < len(config.in_time)
            down = Down(outputs, config.in_time[index]) if halves else None
            if config.shortcuts:
                time, side = (2 if halves and config.in_time[index] else 1), (2 if halves else 1)
                blocks.append(Chain(resnets, down, MeanDown(inputs, outputs, time, side), "downsampler"))
            else:
                blocks += [*resnets, *([down] if down else [])]
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = Middle(widths[-1])
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = causal_conv(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor, memory: Memory, recompute: bool = False) -> Tensor:
        x = self.conv_in(x, memory)
        for block in (*self.down_blocks, self.mid_block):
            x = run(block, x, memory, recompute)
        return self.conv_out(F.silu(self.norm_out(x)), memory)


class Decoder(nn.Module):
    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        widths = (config.decoder_stages[0], *config.decoder_stages)
        in_time = config.in_time[::-1]
        self.conv_in = causal_conv(config.latent_channels, widths[0])
        self.mid_block = Middle(widths[0])
        blocks: list[nn.Module] = []
        for index, (before, outputs) in enumerate(pairwise(widths)):
            # Without shortcuts, what doubles the sides halves the width.
            inputs = before if config.shortcuts or index == 0 else before // 2
            resnets = [Residual(inputs if n == 0 else outputs, outputs) for n in range(config.layers + 1)]
            if index == len(in_time):
                blocks.append(Chain(resnets, None, None, "upsampler"))
            elif config.shortcuts:
                up = Up(outputs, outputs, in_time[index])
                shortcut = CopyUp(inputs, outputs, 2 if in_time[index] else 1, 2)
                blocks.append(Chain(resnets, up, shortcut, "upsampler"))
            else:
                blocks.append(Chain(resnets, Up(outputs, outputs // 2, in_time[index]), None, "upsamplers"))
        self.up_blocks = nn.ModuleList(blocks)
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = causal_conv(widths[-1], 3 * (config.patch or 1) ** 2)

    def forward(self, x: Tensor, memory: Memory, recompute: bool = False) -> Tensor:
        x = self.conv_in(x, memory)
        for block in (self.mid_block, *self.up_blocks):
            x = run(block, x, memory, recompute)
        return self.conv_out(F.silu(self.norm_out(x)), memory)


class WanVAE(nn.Module):
    """``recompute``: spare memory in training, at the price of another forward."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv3d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def latent_frames(self, frames: int) -> int:
        """How many latent frames a clip of ``frames`` has, which are 1 and a multiple of the config's stride."""
        assert (frames - 1) % self.config.frame_stride == 0
        return 1 + (frames - 1) // self.config.frame_stride

    def frames(self, latent_frames: int) -> int:
        return 1 + (latent_frames - 1) * self.config.frame_stride

    def scaled(self, z_BCthw: Tensor) -> Tensor:
        """Latents in the transformer's scale: of mean 0 and deviation 1 by channel."""
        mean, deviation = self._statistics(z_BCthw)
        return ((z_BCthw.float() - mean) / deviation).to(z_BCthw.dtype)

    def unscaled(self, z_BCthw: Tensor) -> Tensor:
        """The inverse of ``scaled``."""
        mean, deviation = self._statistics(z_BCthw)
        return (z_BCthw.float() * deviation + mean).to(z_BCthw.dtype)

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = (
            torch.tensor(values, device=z.device)[:, None, None, None]
            for values in (self.config.mean, self.config.deviation)
        )
        return mean, deviation

    def moments(self, x_BCTHW: Tensor) -> Tensor:
        """Of a clip in [-1, 1], mean and log-variance of its latents' posterior: ``[B, 2 C, t, h, w]``."""
        self.latent_frames(x_BCTHW.shape[2])
        return self.quant_conv(self.encoder(self._patched(x_BCTHW), Memory(), self.recompute))

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """The mean of the posterior, ``[B, C, t, h, w]``, not scaled."""
        return self.moments(x_BCTHW).chunk(2, dim=1)[0]

    def encode_chunked(self, x_BCTHW: Tensor) -> Tensor:
        """As ``encode``, to rounding, a few frames at a time."""
        self.latent_frames(x_BCTHW.shape[2])
        return torch.cat(
            [*self.stream_encode([x_BCTHW[:, :, :1], *x_BCTHW[:, :, 1:].split(self.config.frame_stride, 2)])], 2
        )

    def stream_encode(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Latents of a clip that comes in parts: its first frame, and then as many frames as a latent stands for (or a
        multiple)."""
        memory = Memory(keeping=True)
        for part in parts:
            if part.shape[2]:
                yield self.quant_conv(self.encoder(self._patched(part), memory)).chunk(2, dim=1)[0]
                memory.first = False

    def decode(self, z_BCthw: Tensor) -> Tensor:
        """Latents, not scaled, to a clip of about [-1, 1]. No frame depends on later latents, so the first k latents
        give the clip's first frames exactly."""
        return self._unpatched(self.decoder(self.post_quant_conv(z_BCthw), Memory(), self.recompute))

    def stream_decode(self, z_BCthw: Tensor) -> Iterator[Tensor]:
        """As ``decode``, to rounding, the frames of one latent after the other; memory does not grow with their
        number."""
        memory = Memory(keeping=True)
        for part in z_BCthw.split(1, dim=2):
            yield self._unpatched(self.decoder(self.post_quant_conv(part), memory))
            memory.first = False

    def decode_window(self, z_BCthw: Tensor, start: int, stop: int) -> Tensor:
        """The frames of the latents ``start`` to ``stop``, as ``decode`` of all gives them. What comes before is gone
        through without gradients, for what it leaves behind; only the window's latents get some."""
        memory = Memory(keeping=True)
        made = []
        for index, part in enumerate(z_BCthw[:, :, :stop].split(1, dim=2)):
            within = index >= start
            latent = self.post_quant_conv(part if within else part.detach())
            frames = self.decoder(latent, memory, self.recompute and within)
            if within:
                made.append(self._unpatched(frames))
            else:
                memory.detach()
            memory.first = False
        return torch.cat(made, dim=2)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """There and back."""
        return self.decode(self.encode(x_BCTHW))

    def _patched(self, x: Tensor) -> Tensor:
        side = self.config.patch
        return x if side is None else rearrange(x, "b c t (h q) (w r) -> b (c r q) t h w", q=side, r=side)

    def _unpatched(self, x: Tensor) -> Tensor:
        side = self.config.patch
        return x if side is None else rearrange(x, "b (c r q) t h w -> b c t (h q) (w r)", q=side, r=side)
