"""Attention whose cost is linear in the number of tokens.  B batch, L tokens, N heads, K/V head width."""

from __future__ import annotations

import torch
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
        q_BNLK = F.relu(q_BLNK).float().transpose(1, 2)
        k_BNLK = F.relu(k_BLNK).float().transpose(1, 2)
        v_BNLV = v_BLNV.float().transpose(1, 2)
        kv_BNKV = k_BNLK.transpose(-1, -2) @ v_BNLV
        k_sum_BNK1 = k_BNLK.sum(dim=2).unsqueeze(-1)
        out_BNLV = (q_BNLK @ kv_BNKV) / (q_BNLK @ k_sum_BNK1 + eps)
    return out_BNLV.transpose(1, 2).to(dtype)
