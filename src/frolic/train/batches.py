"""Batches as functions of the step, prepared ahead when asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from frolic.train.objectives.base import Batch, Source
from frolic.train.seeding import step_generator

T = TypeVar("T")


def batches(source: Source, seed: int, first: int, last: int, size: int, prefetch: int) -> Generator[Batch, None, None]:
    """Batches of the steps ``first`` to ``last`` (exclusive), prepared as ``ahead`` does."""

    def make(step: int) -> Batch:
        batch = source.batch(step, size, step_generator(seed, step, "data"))
        assert all(tensor.shape[0] == size for tensor in batch.values()), "a batch has the samples along dimension 0"
        return batch

    return ahead(make, first, last, prefetch)


def ahead(make: Callable[[int], T], first: int, last: int, prefetch: int) -> Generator[T, None, None]:
    """``make(first)`` to ``make(last - 1)``. ``prefetch`` of them are prepared meanwhile, each on a thread of its own,
    so ``make`` must be a function of its number alone."""
    if not prefetch:
        yield from map(make, range(first, last))
        return
    # Each takes one core: threads that all use every core stand in each other's way. This sets the new threads' own
    # number; the one that trains keeps its.
    with ThreadPoolExecutor(
        prefetch, thread_name_prefix="frolic-batches", initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for step in range(first, last):
                while len(waiting) <= prefetch and step + len(waiting) < last:
                    waiting.append(pool.submit(make, step + len(waiting)))
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
