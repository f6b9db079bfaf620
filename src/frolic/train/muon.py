"""Muon: momentum whose matrices are made (nearly) orthogonal before they are applied.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the update scaled to AdamW's
size as in J. Liu et al., "Muon is scalable for LLM training" (2025), section 2.2, so one learning rate serves both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315
_ADAMW_RMS = 0.2


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


class Muon(torch.optim.Optimizer):
    """For weights with two or more dimensions, seen as ``[split * rows, everything else]``.

    Args:
        params: groups may set ``lr``, ``weight_decay`` and ``split`` (matrices stacked along the first dimension).
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        iterations: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0, "split": 1})
        self.momentum, self.nesterov, self.iterations, self.dtype = momentum, nesterov, iterations, dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["momentum"] = torch.zeros_like(param)
                state["momentum"].lerp_(param.grad, 1 - self.momentum)
                update = param.grad.lerp(state["momentum"], self.momentum) if self.nesterov else state["momentum"]
                matrices = update.reshape(group["split"], param.shape[0] // group["split"], -1)
                alike[matrices.shape[1], matrices.shape[2]].append((param, matrices))
            for (rows, columns), members in alike.items():
                # All matrices of a shape at once: many small products are slow on a GPU.
                stacked = orthogonalise(torch.cat([m for _, m in members]), self.iterations, self.dtype)
                size = _ADAMW_RMS * max(rows, columns) ** 0.5
                for (param, _), update in zip(members, stacked.split(group["split"]), strict=True):
                    param.mul_(1 - group["lr"] * group["weight_decay"])
                    param.add_(update.reshape(param.shape), alpha=-group["lr"] * size)
