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

from frolic.nn.orthogonal import orthogonalise

_ADAMW_RMS = 0.2


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
