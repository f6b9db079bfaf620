"""What the Wan autoencoder is made of: layers in which no frame sees a later one.

B batch, C channels, T frames, H/W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Memory:
    """What the layers keep of a clip's earlier frames while it goes through in parts. ``keeping``: whether more parts
    will follow; a whole clip is one part, of which nothing is kept. ``first``: whether this part begins the clip."""

    def __init__(self, keeping: bool = False) -> None:
        self.keeping = keeping
        self.first = True
        self._kept: dict[nn.Module, Tensor] = {}

    def before(self, layer: nn.Module, x_BCTHW: Tensor, count: int) -> Tensor:
        """``x`` behind the ``count`` frames that the layer was given before, or as many as there were."""
        kept = self._kept.get(layer)
        x = x_BCTHW if kept is None else torch.cat([kept, x_BCTHW], dim=2)
        if self.keeping:
            # A copy: a view would keep all of the frames.
            self._kept[layer] = x[:, :, -count:].clone()
        return x

    def copy(self) -> Memory:
        """Another one, which from here on keeps its own."""
        other = Memory(self.keeping)
        other.first, other._kept = self.first, dict(self._kept)
        return other

    def detach(self) -> None:
        """Let no gradient reach what was kept."""
        self._kept = {layer: kept.detach() for layer, kept in self._kept.items()}


class CausalConv3d(nn.Conv3d):
    """A 3x3x3 convolution (or 3x1x1) that looks at two frames before each, zeros where there are none."""

    def forward(self, x_BCTHW: Tensor, memory: Memory) -> Tensor:  # type: ignore[override]
        frames = x_BCTHW.shape[2]
        x = memory.before(self, x_BCTHW, 2)
        lacking = 2 + frames - x.shape[2]
        if x.shape[2] == 1:
            # Before it are zeros: a picture needs a third of the work.
            flat = F.conv2d(x[:, :, 0], self.weight[:, :, 2], self.bias, padding=self.padding[1:])
            return flat[:, :, None]
        x = F.pad(x, (0, 0, 0, 0, lacking, 0)) if lacking else x
        return F.conv3d(x, self.weight, self.bias, padding=(0, *self.padding[1:]))


def causal_conv(inputs: int, outputs: int) -> CausalConv3d:
    return CausalConv3d(inputs, outputs, 3, padding=(0, 1, 1))


class ChannelNorm(nn.Module):
    """Root-mean-square norm over channels, in float32. ``axes`` behind the channels are in the weight's shape."""

    def __init__(self, channels: int, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.normalize(x.float(), dim=1).to(x.dtype)
        return normed * (len(self.gamma) ** 0.5 * self.gamma.view(-1, *[1] * (x.ndim - 2)))


class Residual(nn.Module):
    """Two causal convolutions, each behind a norm and SiLU, and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(inputs)
        self.conv1 = causal_conv(inputs, outputs)
        self.norm2 = ChannelNorm(outputs)
        self.conv2 = causal_conv(outputs, outputs)
        self.conv_shortcut = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)), memory)
        return self.conv2(F.silu(self.norm2(h)), memory) + self.conv_shortcut(x)


class Attention(nn.Module):
    """Each place of a frame attends to all places of it, in one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, axes=2)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).permute(0, 2, 3, 4, 1).flatten(2, 3)
        q, k, v = self.to_qkv(tokens).chunk(3, dim=-1)
        out = self.proj(F.scaled_dot_product_attention(q, k, v))
        return x + out.unflatten(2, x.shape[-2:]).permute(0, 4, 1, 2, 3)


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([Residual(channels, channels), Residual(channels, channels)])
        self.attentions = nn.ModuleList([Attention(channels)])

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, memory)), memory)


def _by_frame(layer: nn.Module, x_BCTHW: Tensor) -> Tensor:
    """A layer of pictures, on every frame."""
    frames = x_BCTHW.transpose(1, 2)
    return layer(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class Halve(nn.Sequential):
    """A strided convolution that looks one pixel beyond the right and lower border."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))


class Double(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(inputs, outputs, 3, padding=1))


class Down(nn.Module):
    """Half the sides, and with ``in_time`` half the frames, of which the first stays as it is."""

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.resample = Halve(channels)
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if in_time else None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        x = _by_frame(self.resample, x)
        if self.time_conv is None:
            return x
        first = memory.first
        x = memory.before(self, x, 1)
        if not first:
            return self.time_conv(x)
        return torch.cat([x[:, :, :1], self.time_conv(x)], dim=2) if x.shape[2] > 1 else x


class Up(nn.Module):
    """Twice the sides, and with ``in_time`` twice the frames, but for the first, which stays one."""

    def __init__(self, inputs: int, outputs: int, in_time: bool) -> None:
        super().__init__()
        self.resample = Double(inputs, outputs)
        self.time_conv = CausalConv3d(inputs, 2 * inputs, (3, 1, 1)) if in_time else None

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        if self.time_conv is not None:
            start = int(memory.first)
            later = x[:, :, start:]
            if later.shape[2]:
                # The first frame is not among those that the others look back at.
                pairs = self.time_conv(later, memory).unflatten(1, (2, -1))
                later = pairs.movedim(1, 3).flatten(2, 3)
                x = torch.cat([x[:, :, :1], later], dim=2) if start else later
        return _by_frame(self.resample, x)


class MeanDown(nn.Module):
    """The shortcut around a stage that halves: means over the values that come together, by channel."""

    def __init__(self, inputs: int, outputs: int, time: int, side: int) -> None:
        super().__init__()
        self.outputs, self.time, self.side = outputs, time, side

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        lacking = -x.shape[2] % self.time  # the first frame stands alone: zeros before it
        x = F.pad(x, (0, 0, 0, 0, lacking, 0))
        x = x.unflatten(4, (-1, self.side)).unflatten(3, (-1, self.side)).unflatten(2, (-1, self.time))
        x = x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
        return x.unflatten(1, (self.outputs, -1)).mean(dim=2)


class CopyUp(nn.Module):
    """The shortcut around a stage that doubles: copies, by channel."""

    def __init__(self, inputs: int, outputs: int, time: int, side: int) -> None:
        super().__init__()
        self.outputs, self.time, self.side = outputs, time, side
        self.copies = outputs * time * side * side // inputs

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        x = x.repeat_interleave(self.copies, dim=1).unflatten(1, (self.outputs, self.time, self.side, self.side))
        x = x.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return x[:, :, self.time - 1 :] if memory.first else x


class Chain(nn.Module):
    """Residual blocks and what resamples behind them, plus the shortcut around all, where there is one. The names of
    the parts are published ones."""

    def __init__(
        self, resnets: Sequence[Residual], last: nn.Module | None, shortcut: nn.Module | None, name: str
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self._last = name
        if last is not None:
            setattr(self, name, nn.ModuleList([last]) if name.endswith("s") else last)
        self.avg_shortcut = shortcut

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        given = x
        for block in self.resnets:
            x = block(x, memory)
        last = getattr(self, self._last, None)
        if last is not None:
            x = (last[0] if isinstance(last, nn.ModuleList) else last)(x, memory)
        return x if self.avg_shortcut is None else x + self.avg_shortcut(given, memory)


def run(layer: nn.Module, x: Tensor, memory: Memory, recompute: bool) -> Tensor:
    """``layer``; with ``recompute``, what is inside it is computed again for the gradient instead of being kept."""
    if not recompute or not torch.is_grad_enabled():
        return layer(x, memory)
    # What is computed again sees what was kept when it was computed first, and leaves nothing behind.
    before: Memory | None = None

    def work(x: Tensor) -> Tensor:
        nonlocal before
        if before is not None:
            return layer(x, before.copy())
        before = memory.copy()
        return layer(x, memory)

    return checkpoint(work, x, use_reentrant=False)
