"""Several ways to do the same, timed in turns, and how they compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median


def turns(names: Iterable[str], count: int) -> Iterator[str]:
    """A B, B A, A B ...: a drift of the machine's speed meets all alike."""
    forth = tuple(names)
    for turn in range(count):
        yield from forth if turn % 2 == 0 else reversed(forth)


def timed(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    calls: int = 1,
    digits: int = 4,
    wait: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of a call, ``repeats`` of each, in turns; one is the mean of ``calls``. ``wait`` is for a device that
    works on by itself. Whatever warms up comes before."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for name in turns(works, repeats):
        started = time.perf_counter()
        for _ in range(calls):
            works[name]()
        wait()
        seconds[name].append(round((time.perf_counter() - started) / calls, digits))
    return seconds


def ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """The median over the turns of theirs / ours, and its extremes."""
    pairs = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {"median": round(median(pairs), 3), "min": round(min(pairs), 3), "max": round(max(pairs), 3)}
