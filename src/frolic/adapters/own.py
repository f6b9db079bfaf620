"""An adapter by itself: what can be said of a file without the model that it is for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from frolic.adapters.folder import find
from frolic.adapters.read import Target
from frolic.lora.dialect import split
from frolic.lora.experts import HIGH, inside, of_expert
from frolic.lora.names import FLAT_PREFIXES, PREFIXES, Names


def own_target(paths: Sequence[Path]) -> Target:
    """The layers that these files themselves name, with the sizes that their factors have. Layers that two files call
    by one name, whatever the prefix, are one."""
    shapes: dict[str, tuple[int, int]] = {}
    for path in paths:
        whole = find(path).entries()
        for expert in inside(whole) or (HIGH,):
            entries = of_expert(whole, expert)
            modules, _ = split({key: torch.empty(entry.shape, device="meta") for key, entry in entries.items()})
            for module, pieces in modules.items():
                shape = _shape({kind: tuple(tensor.shape) for kind, tensor in pieces.tensors.items()})
                if shape is not None:
                    shapes.setdefault(bare(module), shape)
    return Target(Names(shapes, {}), shapes)


def bare(module: str) -> str:
    """A module's name without the prefix of a dialect."""
    for prefix in (*PREFIXES, *FLAT_PREFIXES):
        if module.startswith(prefix):
            return module.removeprefix(prefix)
    return module


def _shape(found: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """Rows and columns of the weight that pieces of these shapes are for, or None where they do not say."""

    def side(whole: str, left: str, right: str) -> tuple[int, int] | None:
        if whole in found:
            return found[whole][0], math.prod(found[whole][1:])
        if left in found and right in found:
            return found[left][0], math.prod(found[right][1:])
        return None

    if (direct := side("", "up", "down") or side("diff", "hada1_b", "hada1_a")) is not None:
        return direct
    one, other = side("w1", "w1_a", "w1_b"), side("w2", "w2_a", "w2_b")
    return None if one is None or other is None else (one[0] * other[0], one[1] * other[1])
