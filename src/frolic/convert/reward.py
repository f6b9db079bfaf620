"""A published reward's weights as safetensors: the names stay, because the reward that reads them knows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from frolic.errors import CheckpointError
from frolic.io.problems import Problems
from frolic.io.safetensors import Entry, read_tensors, write


def copy(entries: Mapping[str, Entry], target: Path, path: Path, dtype: torch.dtype | None, force: bool) -> int:
    """Write all tensors to the file ``target``, floating-point ones as ``dtype`` (None: as they are), one at a time.
    Returns how many bytes they have. ``path`` is what errors call the source.

    Raises:
        CheckpointError: numbers are not finite, or too large for the dtype; all are listed.
        FileError, ResourceError: the file cannot be written.
    """
    problems = Problems(f"{path} cannot be converted; get the file again")

    def kind(entry: Entry) -> torch.dtype:
        return dtype if dtype is not None and entry.dtype.is_floating_point else entry.dtype

    def stream(names: Sequence[str]) -> Iterator[Tensor]:
        for name in names:
            yield read_tensors({name: entries[name]}, problems, dtype=dtype)[name]
        problems.raise_any(CheckpointError)

    specs = {name: (kind(entry), entry.shape) for name, entry in entries.items()}
    write(specs, stream, target, force=force)
    return sum(torch.Size(shape).numel() * kept.itemsize for kept, shape in specs.values())
