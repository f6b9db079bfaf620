"""Normalisations.  B batch, L tokens, D width, C channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, in float32, with a learned scale and an optional bias.

    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """

    def __init__(self, width: int, *, eps: float, bias: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return _rms_norm(x, self.weight, self.bias, self.eps)


class ChannelRMSNorm(RMSNorm):
    """``RMSNorm`` over the channel axis of ``[B, C, H, W]``; free of copies for channels-last input."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW.movedim(1, -1)).movedim(-1, 1)


class GemmaRMSNorm(nn.Module):
    """RMS norm whose stored weight is the scale minus one (Gemma, Gemma 2)."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return _rms_norm(x, 1.0 + self.weight.float(), None, self.eps)


def _rms_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    if x.device.type == "cuda" and x.dtype == weight.dtype:
        # One kernel, which computes in float32 whatever it reads.
        y = F.rms_norm(x, (x.shape[-1],), weight, eps)
        return y if bias is None else y + bias
    if x.device.type != "cpu" or torch.is_grad_enabled():
        y = F.rms_norm(x.float(), (x.shape[-1],), weight.float(), eps)
        return (y if bias is None else y + bias).to(x.dtype)
    # On the CPU PyTorch's is a chain of whole passes over memory; this is three, twice as fast.
    wide = x.float()
    inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    y = wide * inverse
    y = y.mul_(weight.float()) if bias is None else torch.addcmul(bias.float(), y, weight.float())
    return y.to(x.dtype)


def modulated_layer_norm(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float) -> Tensor:
    """``LayerNorm(x) * (1 + scale) + shift`` without learned affine: the adaptive norm of diffusion transformers."""
    normed = F.layer_norm(x_BLD, (x_BLD.shape[-1],), eps=eps)
    return torch.addcmul(shift_B1D, normed, 1.0 + scale_B1D)
