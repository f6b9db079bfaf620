"""Results that take minutes and depend on nothing but what is named, kept as safetensors."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from frolic.errors import CheckpointError
from frolic.io import safetensors

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


def counted(parts: Iterable[T], total: int, each: int = 1) -> Iterator[T]:
    """``parts``, of which there are ``each`` of ``total`` in one; every now and then it is logged how many are done."""
    said = time.monotonic()
    for number, part in enumerate(parts, 1):
        yield part
        if time.monotonic() - said > _EVERY:
            said = time.monotonic()
            _log.info("%d of %d", min(number * each, total), total)
