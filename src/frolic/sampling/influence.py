"""How much each step's velocity moves where a sampler ends.

N steps, B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from frolic.sampling.solvers import Sampler


def influence(sampler: Sampler, sigmas: Tensor) -> list[float]:
    """``[N]``: by how much the end moves when the velocity of step k moves by one and all other velocities stay.

    Every solver here is linear in what it is given: the state and the velocities, which it meets as x0 estimates
    ``x - sigma v``. So the end is ``sum_k c_k v_k`` plus the start, and run once from zero, for N samples of which the
    k-th has velocity 1 at step k and 0 elsewhere, it ends at all ``c_k``. Euler's are its step sizes
    ``sigma_k+1 - sigma_k``; a multistep solver's differ, because a velocity serves in more than one step. Noise that a
    sampler adds on its way is given, and moves nothing.

    ``sigmas`` [N + 1] end in 0; one call of the denoiser a step.
    """
    total = len(sigmas) - 1
    ones = torch.eye(total, dtype=torch.float64)
    called = 0

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal called
        called += 1
        return x - sigma.double() * ones[called - 1]

    x = zero = torch.zeros(total, dtype=torch.float64)
    for step in sampler.steps(denoise, x, sigmas, lambda number: zero):
        x = step.x
    assert called == total
    shares: list[float] = x.tolist()
    return shares
