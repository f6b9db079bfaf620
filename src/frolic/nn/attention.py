"""Softmax attention.  B batch, N heads, L queries, S keys, K head width."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

_FEW_KEYS = 256


def softmax_attention(
    q_BNLK: Tensor, k_BNSK: Tensor, v_BNSK: Tensor, mask: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    """``softmax(scale q k^T) v``; ``mask`` (true where a key may be read, or what is added to the logits) broadcasts to
    ``[B, N, L, S]``.

    PyTorch's fused kernel pays off with many keys. For the few of a short prompt its backward on the CPU takes ten
    times as long as the three plain products do. It has no forward-mode derivative (``torch.func.jvp``): where one is
    asked for, the plain products are taken.
    """
    many = q_BNLK.device.type != "cpu" or k_BNSK.shape[-2] > _FEW_KEYS or not torch.is_grad_enabled()
    if many and not any(forward_ad.unpack_dual(each).tangent is not None for each in (q_BNLK, k_BNSK, v_BNSK)):
        return F.scaled_dot_product_attention(q_BNLK, k_BNSK, v_BNSK, attn_mask=mask, scale=scale)
    scale = q_BNLK.shape[-1] ** -0.5 if scale is None else scale
    logits = (q_BNLK * scale) @ k_BNSK.transpose(-1, -2)
    if mask is not None:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min) if mask.dtype == torch.bool else logits + mask
    return logits.float().softmax(dim=-1).to(v_BNSK.dtype) @ v_BNSK
