"""Work that may run out of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from frolic.errors import is_out_of_memory
from frolic.pipeline.parts import lasting

TiledWork: TypeAlias = Callable[[torch.device, torch.dtype, int | None], Tensor]
"""``(device, dtype, tile)`` to what it gives; ``tile`` None is all at once."""


def attempt(work: Callable[[], Tensor], device: torch.device) -> Tensor | None:
    """What ``work`` gives, or None where it ran out of memory."""
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Here the error is gone, and with it the tensors of the frames that it held.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def descend(
    work: TiledWork,
    worker: Callable[[], nn.Module],
    tiles: Sequence[int | None],
    device: torch.device,
    dtype: torch.dtype,
    *,
    doing: str,
    pieces: str,
    notes: list[str],
) -> Tensor | None:
    """What ``work`` gives with the first of ``tiles`` that there is memory for; failing all, with the last on the CPU
    in float32, where the module that ``worker`` names goes for as long as that takes; None if that is too much, too.

    ``notes`` are told what had to be done, in the words of ``doing`` ("Decoding") and ``pieces`` ("{} rows at a time").
    """
    for number, tile in enumerate(tiles):
        if number:
            notes.append(f"{doing} ran out of memory on {device.type}; done again {pieces.format(tile)}.")
        done = attempt(partial(work, device, dtype, tile), device)
        if done is not None:
            return done
    if device.type == "cpu":
        return None
    notes.append(f"{doing} ran out of memory on {device.type}; done on the CPU in float32, which is slower.")
    module = worker()
    with lasting():
        module.to("cpu", torch.float32)
    try:
        cpu = torch.device("cpu")
        return attempt(partial(work, cpu, torch.float32, tiles[-1]), cpu)
    finally:
        with lasting():
            module.to(device, dtype)
