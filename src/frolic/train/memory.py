"""How a training process keeps its memory on a CPU."""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD, _ARENA_MAX = -3, -1, -2, -8  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep what its tensors free, for the next tensors; False where that cannot be said.

    glibc gives large blocks back to the system at once and takes new ones for the next operation, and the system clears
    each of their pages: a fifth of a training step on a CPU. For a process that trains and ends; a server would hold
    its largest moment for ever.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # Above 32 MiB glibc does not take a threshold. Threads share one arena: others shrink whatever is set here.
    settings = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 256 << 20, _ARENA_MAX: 1}
    taken = [mallopt(key, value) == 1 for key, value in settings.items()]
    return all(taken)
