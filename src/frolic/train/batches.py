"""Batches as functions of the step, prepared ahead when asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

from frolic.train.objectives.base import Batch, Source
from frolic.train.seeding import step_generator


def batches(source: Source, seed: int, first: int, last: int, size: int, prefetch: int) -> Generator[Batch, None, None]:
    """Batches of the steps ``first`` to ``last`` (exclusive). ``prefetch`` of them are prepared on one other thread."""

    def make(step: int) -> Batch:
        batch = source.batch(step, size, step_generator(seed, step, "data"))
        assert all(tensor.shape[0] == size for tensor in batch.values()), "a batch has the samples along dimension 0"
        return batch

    if not prefetch:
        for step in range(first, last):
            yield make(step)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="frolic-batches") as pool:
        ahead: deque[Future[Batch]] = deque()
        try:
            for step in range(first, last):
                while len(ahead) <= prefetch and step + len(ahead) < last:
                    ahead.append(pool.submit(make, step + len(ahead)))
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
