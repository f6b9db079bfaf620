"""Randomness as a function of the run's seed and the step, and the global generators' state."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import torch
from torch import Tensor


def step_generator(seed: int, step: int, stream: str) -> torch.Generator:
    """A CPU generator for one purpose (``stream``) in one step."""
    digest = hashlib.blake2b(f"{seed}/{step}/{stream}".encode(), digest_size=8).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator


def capture_global() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """States of the global generators of torch (tensors), Python and NumPy (plain data)."""
    import numpy

    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    version, numbers, gauss = random.getstate()
    legacy = numpy.random.get_state(legacy=False)
    assert isinstance(legacy, dict)
    plain = {
        "python": [version, list(numbers), gauss],
        "numpy": {**legacy, "state": {**legacy["state"], "key": legacy["state"]["key"].tolist()}},
    }
    return tensors, plain


def restore_global(tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Undo of ``capture_global``; devices that are not here any more are passed over."""
    import numpy

    torch.set_rng_state(tensors["cpu"].cpu())
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda{index}" in tensors:
                torch.cuda.set_rng_state(tensors[f"cuda{index}"].cpu(), index)
    version, numbers, gauss = plain["python"]
    random.setstate((version, tuple(numbers), gauss))
    state = plain["numpy"]
    key = numpy.asarray(state["state"]["key"], dtype=numpy.uint32)
    numpy.random.set_state({**state, "state": {**state["state"], "key": key}})
