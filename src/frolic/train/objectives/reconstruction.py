"""Train an autoencoder to give back its input from few, well-behaved latents.

B batch, C latent channels, h/w latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.config import Section


class ReconstructionWeights(Section):
    """``moments`` pulls each channel's mean to 0 and deviation to 1; ``noise`` is the largest deviation, in units of
    the channel's own, of the noise that the decoder must put up with; ``perceptual`` and ``edges`` weigh their terms
    against an L1 of weight 1."""

    moments: float = 1e-2
    noise: float = 0.2
    perceptual: float = 0.0
    edges: float = 0.0


class Reconstruction:
    """L1 and perceptual loss, with noise on the latents.

    The noise stands for what a diffusion model gets wrong: without it a decoder turns small errors into visible ones,
    and the encoder is free to hide detail at amplitudes that no diffusion model reproduces.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        weights: ReconstructionWeights,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        preview_pixels: Tensor | None = None,
    ) -> None:
        assert weights.perceptual == 0 or perceptual is not None
        self.autoencoder = autoencoder
        self.weights = weights
        self.perceptual = perceptual
        self.preview_pixels = preview_pixels

    def modules(self) -> Mapping[str, nn.Module]:
        return {"vae": self.autoencoder}

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``batch["pixels"]`` is ``[B, 3, H, W]``, or of clips ``[B, 3, T, H, W]``, in [-1, 1]."""
        x = batch["pixels"]
        z = self.autoencoder.encode(x).float()  # type: ignore[operator]
        places = (0, *range(2, z.ndim))
        spread = z.std(dim=places, keepdim=True)
        mean = z.mean(dim=places)
        level = torch.rand(len(z), *[1] * (z.ndim - 1), generator=generator) * self.weights.noise
        noise = torch.randn(z.shape, generator=generator) * level
        y = self.autoencoder.decode(z + spread.detach() * noise.to(z)).float()  # type: ignore[operator]
        l1 = F.l1_loss(y, x)
        moments = mean.square().mean() + (spread - 1).square().mean()
        loss = l1 + self.weights.moments * moments
        metrics = {"l1": l1, "moments": moments, "psnr": psnr(y.clamp(-1, 1), x)}
        if self.weights.edges:
            # Of a clip, what changes from frame to frame is an edge too.
            axes = [axis for axis in range(2, x.ndim) if x.shape[axis] > 1]
            edges = torch.stack([F.l1_loss(y.diff(dim=axis), x.diff(dim=axis)) for axis in axes]).sum()
            loss, metrics["edges"] = loss + self.weights.edges * edges, edges
        if self.perceptual is not None and self.weights.perceptual:
            distance = self.perceptual(y, x).mean()
            loss, metrics["perceptual"] = loss + self.weights.perceptual * distance, distance
        return loss, metrics

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        """The preview pictures and their reconstructions, one under the other."""
        if self.preview_pixels is None:
            return None
        autoencoder = modules["vae"]
        y = autoencoder.decode(autoencoder.encode(self.preview_pixels))  # type: ignore[operator]
        shown = torch.cat([self.preview_pixels, y.float().clamp(-1, 1)])
        return shown if shown.ndim == 4 else strips(shown)


def strips(clips_B3THW: Tensor, count: int = 5) -> Tensor:
    """``count`` frames of each clip, evenly spread, side by side: ``[B, 3, H, count W]``."""
    last = clips_B3THW.shape[2] - 1
    return torch.cat([clips_B3THW[:, :, round(last * n / max(1, count - 1))] for n in range(count)], dim=-1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Mean peak signal-to-noise ratio in dB of pictures ``[B, 3, H, W]``, or clips, in [-1, 1]."""
    error = (a.detach() - b).square().flatten(1).mean(dim=1).clamp_min(1e-10)
    return (10 * torch.log10(4 / error)).mean()
