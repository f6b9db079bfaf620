"""Results that take minutes and depend on nothing but what is named, kept as safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from frolic.errors import CheckpointError
from frolic.io import safetensors


def cached(folder: Path, inputs: Iterable[str], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What ``make`` returned when it was last asked with these ``inputs``, or now. A damaged file is made again.

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
    # As a file gives them back: in another memory order the first run would round differently from later ones.
    made = {name: tensor.contiguous() for name, tensor in make().items()}
    safetensors.save(made, path)
    return made
