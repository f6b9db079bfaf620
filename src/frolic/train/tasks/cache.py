"""Results that take minutes and depend on nothing but what is named, kept as safetensors."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor

from frolic.accel.arithmetic import has_bfloat16
from frolic.errors import CheckpointError
from frolic.io import safetensors
from frolic.train.batches import ahead

_EVERY = 20.0
_log = logging.getLogger(__name__)
T = TypeVar("T")


def cached(
    folder: Path, inputs: Iterable[str], make: Callable[[], Mapping[str, Tensor]], what: str
) -> dict[str, Tensor]:
    """What ``make`` returned when it was last asked with these ``inputs``, or now. A damaged file is made again. It is
    logged that ``what`` is being made.

    Raises:
        FileError: ``folder`` cannot be written. ResourceError: the disk is full.
    """
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:24]
    path = folder / f"{digest}.safetensors"
    if path.is_file():
        try:
            return safetensors.load(path)
        except CheckpointError:
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    _log.info("%s: made once and kept in %s", what, folder)
    # As a file gives them back: in another memory order the first run would round differently from later ones.
    made = {name: tensor.contiguous() for name, tensor in make().items()}
    safetensors.save(made, path)
    return made


def encoded(
    pixels: Callable[[int], Tensor],
    encode: Callable[[Tensor], Tensor],
    total: int,
    each: int,
    device: torch.device,
    prefetch: int,
) -> Iterator[Tensor]:
    """``encode(pixels(0))``, ``encode(pixels(1))``, ..., on the CPU and in half precision, ``each`` of ``total``
    samples in one. They are encoded without gradients, and in bfloat16 where that is fast. ``prefetch`` are made at a
    time, each on a core of its own: a small network next to never keeps several busy. An accelerator encodes one after
    the other.
    """
    alone = nullcontext() if device.type == "cpu" else Lock()

    def make(number: int) -> Tensor:
        x = pixels(number)
        # What is set for one thread is not for another.
        with alone, torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device)):
            return encode(x.to(device)).float().half().cpu()

    return counted(ahead(make, 0, -(-total // each), prefetch), total, each)


def counted(parts: Iterable[T], total: int, each: int = 1) -> Iterator[T]:
    """``parts``, of which there are ``each`` of ``total`` in one; every now and then it is logged how many are done."""
    said = time.monotonic()
    for number, part in enumerate(parts, 1):
        yield part
        if time.monotonic() - said > _EVERY:
            said = time.monotonic()
            _log.info("%d of %d", min(number * each, total), total)
