"""What a run would take of a device's memory, moment by moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Moment:
    """A part of an update, and the bytes of each thing that is on the device in it."""

    name: str
    holds: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.holds.values())


@dataclass(frozen=True)
class MemoryPlan:
    """``free`` is what the device has to give now."""

    device: str
    moments: tuple[Moment, ...]
    free: int

    @property
    def peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.bytes)

    @property
    def fits(self) -> bool:
        return self.peak.bytes <= self.free

    def facts(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {**asdict(self), "peak": self.peak.bytes, "fits": self.fits}

    def summary(self) -> str:
        """In one line."""
        over = "" if self.fits else "; that is more than there is"
        return (
            f"memory of {self.device}: about {_size(self.peak.bytes)} of {_size(self.free)} free, most while "
            f"{self.peak.name}{over}"
        )

    def lines(self) -> list[str]:
        """All of it, for people."""
        lines = []
        for moment in self.moments:
            held = ", ".join(f"{name} {_size(size)}" for name, size in moment.holds.items() if size)
            lines.append(f"  {moment.name:<18} {_size(moment.bytes):>9}: {held}")
        return [*lines, self.summary()]


def kept_bytes(run: Callable[[], Tensor]) -> int:
    """What autograd keeps of ``run`` for the way back, parameters not counted; with fake tensors that costs nothing."""
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in kept.values())


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
