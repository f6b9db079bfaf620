"""What is in an adapter, and which adapters will fight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frolic.lora.adapter import Adapter
from frolic.lora.blend import inner, squared_norm
from frolic.lora.delta import Delta


@dataclass(frozen=True)
class LayerFacts:
    """Of one linear: the rank, the length of the change at strength 1, and that over the length of the weight."""

    linear: str
    rank: int
    norm: float
    relative: float | None


@dataclass(frozen=True)
class Overlap:
    """Of one linear that two adapters change: ``cosine`` of the two changes, and the shares of the smaller one's input
    and output directions that the larger one has as well (1: all of them)."""

    linear: str
    cosine: float
    inputs: float
    outputs: float


def facts(adapter: Adapter, weights: Mapping[str, Tensor] | None = None) -> list[LayerFacts]:
    """Every layer's facts; ``weights`` are the model's own, by our names."""
    found = []
    for name, delta in adapter.deltas.items():
        weight = None if weights is None else weights.get(name)
        if delta.magnitude is not None and weight is None:
            norm = squared_norm(Delta(delta.a, delta.b)) ** 0.5
        elif delta.magnitude is not None:
            norm = float(delta.change(weight).norm())
        else:
            norm = squared_norm(delta) ** 0.5
        relative = None if weight is None else norm / max(1e-12, float(weight.float().norm()))
        found.append(LayerFacts(name, delta.rank, norm, relative))
    return found


def overlaps(one: Adapter, other: Adapter) -> list[Overlap]:
    """Of every linear that both change."""
    found = []
    for name in one.deltas.keys() & other.deltas.keys():
        a, b = one.deltas[name], other.deltas[name]
        length = (squared_norm(a) * squared_norm(b)) ** 0.5
        cosine = inner(a, b) / length if length else 0.0
        found.append(Overlap(name, cosine, _shared(a.a.T, b.a.T), _shared(a.b, b.b)))
    return sorted(found, key=lambda overlap: overlap.linear)


def _shared(one: Tensor, other: Tensor) -> float:
    """How much of the smaller span of columns lies in the larger: the mean squared cosine of their principal angles."""
    if not one.shape[1] or not other.shape[1]:
        return 0.0
    angles = torch.linalg.svdvals(_basis(one).T @ _basis(other))
    return float(angles.square().mean())


def _basis(columns: Tensor) -> Tensor:
    u, s, _ = torch.linalg.svd(columns, full_matrices=False)
    return u[:, s > 1e-5 * s.max()] if float(s.max()) else u[:, :1]


def verdict(found: Sequence[Overlap], names: tuple[str, str]) -> str:
    """One plain sentence on how two adapters go together."""
    one, other = names
    if not found:
        return f"{one} and {other} change no layer in common: they add up without touching each other."
    cosine = sum(overlap.cosine for overlap in found) / len(found)
    shared = sum(max(overlap.inputs, overlap.outputs) for overlap in found) / len(found)
    if cosine < -0.15:
        return f"{one} and {other} will fight: they pull shared layers in opposite directions (cosine {cosine:+.2f})."
    if cosine > 0.5:
        return f"{one} and {other} do much the same (cosine {cosine:+.2f}): together they are too strong."
    if shared > 0.5:
        return (
            f"{one} and {other} may disturb each other: they work on the same directions ({shared:.0%} shared) in "
            f"different ways (cosine {cosine:+.2f}); lower one of them if pictures fall apart."
        )
    return f"{one} and {other} go together: their changes hardly meet (cosine {cosine:+.2f}, {shared:.0%} shared)."
