"""Attention whose cost is linear in the number of tokens.  B batch, L tokens, N heads, K/V head width."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


def relu_linear_attention(q_BLNK: Tensor, k_BLNK: Tensor, v_BLNV: Tensor, *, eps: float) -> Tensor:
    """``relu(q) (relu(k)^T v) / (relu(q) sum relu(k) + eps)`` per head, accumulated in float32.

    Every token reads the same ``[K, V]`` summary of all tokens, so the order of the two products is what makes it
    linear. Katharopoulos et al. 2020 with the ReLU kernel of EfficientViT and SANA (section 2.2).

    Returns ``[B, L, N, V]`` in the dtype of ``v``.
    """
    dtype = v_BLNV.dtype
    # Sums over thousands of tokens lose their small terms in 16 bit, and autocast would put these products there.
    with torch.autocast(q_BLNK.device.type, enabled=False):
        # Plain batches of matrices; for heads that lie together these are views, and nothing is copied.
        heads = (F.relu(q_BLNK), F.relu(k_BLNK), v_BLNV)
        q, k, v = (rearrange(head.float(), "b l n k -> (b n) l k") for head in heads)
        kv = torch.bmm(k.transpose(1, 2), v)
        k_sum = k.sum(dim=1).unsqueeze(-1)
        out = torch.bmm(q, kv) / (torch.bmm(q, k_sum) + eps)
    return rearrange(out, "(b n) l v -> b l n v", n=q_BLNK.shape[2]).to(dtype)
