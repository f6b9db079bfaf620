"""How much each step's velocity moves where a sampler ends.

N steps, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from frolic.sampling.solvers import Step
from frolic.types import Denoise

Solve = Callable[[Denoise, Tensor, Tensor], Iterator[Step]]


def influence(solve: Solve, sigmas: Tensor) -> list[float]:
    """``[N]``: by how much the end moves when the velocity of step k moves by one and all other velocities stay.

    Every solver here is linear in what it is given: the state and the velocities, which it meets as x0 estimates
    ``x - sigma v``. So the end is ``sum_k c_k v_k`` plus the start, and run once from zero, for N samples of which the
    k-th has velocity 1 at step k and 0 elsewhere, it ends at all ``c_k``. Euler's are its step sizes
    ``sigma_k+1 - sigma_k``; a multistep solver's differ, because a velocity serves in more than one step.

    ``sigmas`` [N + 1] end in 0; one call of the denoiser a step.
    """
    total = len(sigmas) - 1
    ones = torch.eye(total, dtype=torch.float64)
    called = 0

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal called
        called += 1
        return x - sigma.double() * ones[called - 1]

    x = torch.zeros(total, dtype=torch.float64)
    for step in solve(denoise, x, sigmas):
        x = step.x
    assert called == total
    shares: list[float] = x.tolist()
    return shares
