"""The passes of one update: parts of its batch, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

Scalars = dict[str, Tensor]
Loss = Callable[[int], tuple[Tensor, Scalars]]


class Passes:
    """Adds up the gradients of an update's passes in ``param.grad``.

    With several ``workers`` each pass has a thread with one core to itself. On a CPU that is faster than all cores on
    one pass after the other: what a core works on stays in its own cache, and no operation waits for the slower one.
    Gradients are added in the order of the passes, so the sum does not depend on which is ready first.
    """

    def __init__(self, params: Sequence[nn.Parameter], workers: int) -> None:
        self._params = list(params)
        self.workers = workers
        # A thread takes the number of cores that was set last when it first computes: this one before the workers do.
        torch.get_num_threads()
        self._pool = (
            ThreadPoolExecutor(workers, "frolic-passes", initializer=torch.set_num_threads, initargs=(1,))
            if workers > 1
            else None
        )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, loss: Loss, count: int) -> list[tuple[Tensor, Scalars]]:
        """``loss(k)`` is that of pass ``k`` of ``count``, and scalars; the gradients of all, divided by ``count``, are
        added up. Returns the losses, without their graphs, and the scalars."""
        if self._pool is None:
            return [self._backward(*loss(index), count) for index in range(count)]

        def one(index: int) -> tuple[tuple[Tensor, ...], Tensor, Scalars]:
            value, scalars = loss(index)
            # Not backward(): threads that add to one tensor do so in any order.
            grads = torch.autograd.grad(value.float() / count, self._params, allow_unused=True)
            return grads, value.detach(), scalars

        done = []
        for grads, value, scalars in self._pool.map(one, range(count)):
            for param, grad in zip(self._params, grads, strict=True):
                if grad is None:
                    continue
                if param.grad is not None:
                    param.grad.add_(grad)
                elif grad.stride() == param.stride():
                    param.grad = grad
                else:
                    # backward() lays a gradient out as its parameter, and fused optimizers take it for granted.
                    param.grad = torch.empty_like(param).copy_(grad)
            done.append((value, scalars))
        return done

    @staticmethod
    def _backward(value: Tensor, scalars: Scalars, count: int) -> tuple[Tensor, Scalars]:
        (value.float() / count).backward()
        return value.detach(), scalars
