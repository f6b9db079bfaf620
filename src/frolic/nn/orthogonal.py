"""Matrices made (nearly) orthogonal, as optimizers want them (K. Jordan et al., "Muon", 2024).

N matrices, R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(x_NRC: Tensor, iterations: int, dtype: torch.dtype) -> Tensor:
    """Each matrix with its singular values pushed to about 1, by the quintic Newton-Schulz iteration.

    Args:
        x_NRC: matrices [N, R, C].
    """
    x = x_NRC.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT.contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.device.type == "cpu":
        # One after the other takes half as long as all in one product of batches; a GPU is the other way round.
        x = torch.stack([_iterate(one, iterations, torch.addmm) for one in x])
    else:
        x = _iterate(x, iterations, torch.baddbmm)
    return (x.mT if tall else x).to(x_NRC.dtype)


def _iterate(x: Tensor, iterations: int, add_product: Callable[..., Tensor]) -> Tensor:
    for _ in range(iterations):
        # On a CPU the product with a transposed view takes up to four times as long as this copy and a plain product.
        gram = x @ x.mT.contiguous()
        x = add_product(x, add_product(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x
