"""A model's folder with adapters merged into its transformer: for a blend that is fixed, at no cost while it draws."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from frolic.adapters import load, target
from frolic.convert.folder import check_apart, check_folder, copy_rest, publish, workspace, write_part
from frolic.convert.job import Job
from frolic.errors import CheckpointError, RequestError
from frolic.io.folder import open_folder
from frolic.io.safetensors import Entry, read_headers
from frolic.lora.blend import merge_into
from frolic.lora.delta import Delta
from frolic.models.layouts import DIFFUSERS, Located
from frolic.models.registry import families
from frolic.plan import Watch, find_model, make_plan

_PART = "transformer"
_SHARD_BYTES = 5 * 10**9
RECIPE = "frolic.merged"
"""The key in a weight file's metadata that names the adapters in it, each with its weight and the hash of its file."""


@dataclass(frozen=True)
class Merged:
    """``layers`` were changed, by the adapters ``names``; ``left_out`` says what of them did not fit, by name."""

    path: Path
    names: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    layers: int
    bytes: int


def merge(
    model: str | Path,
    adapters: Sequence[tuple[str, float]],
    out: str | Path,
    *,
    dtype: str | None = None,
    allow_partial: bool = False,
    force: bool = False,
    watch: Watch | None = None,
) -> Merged:
    """Write ``model`` to the folder ``out`` with ``adapters`` (sources and weights) merged: each weight is summed in
    float32 from the original and rounded once, to ``dtype`` or to what it was stored in. The files of the transformer
    say which adapters are in them (``RECIPE``).

    Raises:
        RequestError: the model has two experts.
        NumericsError: a merged weight is not finite.
        ModelError: the model or an adapter cannot be used; nothing is written.
        FileError, ResourceError: the folder cannot be written, or is there already and ``force`` is not set.
    """
    out = Path(out).expanduser()
    origin = open_folder(find_model(model, watch), families())
    check_folder(out, whole=True, force=force)
    check_apart(out, [origin.path])
    if f"{_PART}_2" in origin.components:
        raise RequestError(f"{origin.name} has two experts, and only one transformer is merged; blend while drawing.")
    component = origin.components[_PART]
    goal = target(component.spec, component.config)
    loaded = [(load(source, goal, allow_partial=allow_partial), weight) for source, weight in adapters]
    changes: dict[str, list[tuple[Delta, float]]] = {}
    for each, weight in loaded:
        for linear, delta in each.adapter.deltas.items():
            if weight:
                changes.setdefault(linear, []).append((delta, weight))
    weights = next(iter(component.weights.values()))
    keymap = component.spec.keymap(component.config)
    found = Located(_PART, component.spec, DIFFUSERS, "", keymap, component.config, read_headers(weights))
    _check_biases(changes, found)
    kind = None if dtype is None else getattr(torch, dtype)
    job = Job(
        found, keymap, weights, dtype=kind, extra=None, change=lambda name, weight: _changed(name, weight, changes)
    )
    recipe = [{"name": each.name, "weight": weight, "sha256": each.hash} for each, weight in loaded]
    with workspace(out) as work:
        made = work / "made"
        write_part(job, made / _PART, _SHARD_BYTES, {"format": "pt", RECIPE: json.dumps(recipe)})
        copy_rest(origin, made, _PART)
        make_plan(made, device="cpu")
        check_folder(out, whole=True, force=force)
        publish(made, out)
    size = sum(maker.bytes for maker in job.makers.values())
    left_out = {each.name: each.adapter.left_out for each, _ in loaded if each.adapter.left_out}
    return Merged(out, tuple(each.name for each, _ in loaded), left_out, len(changes), size)


def _changed(name: str, tensor: Tensor, changes: Mapping[str, Sequence[tuple[Delta, float]]]) -> Tensor:
    linear, _, kind = name.rpartition(".")
    deltas = changes.get(linear, ())
    if kind == "bias":
        total = tensor.float()
        for delta, weight in deltas:
            total = total if delta.bias is None else total + weight * delta.bias
        return total
    return merge_into(tensor.float(), deltas) if kind == "weight" and deltas else tensor


def _check_biases(changes: Mapping[str, Sequence[tuple[Delta, float]]], found: Located[Entry]) -> None:
    """Refuse a changed bias of a layer that has none."""
    with torch.device("meta"):
        names = set(found.spec.build(found.config).state_dict())
    lacking = [
        linear
        for linear, deltas in changes.items()
        if f"{linear}.bias" not in names and any(delta.bias is not None for delta, _ in deltas)
    ]
    if lacking:
        raise CheckpointError(f"These layers have no bias to merge one into: {', '.join(lacking)}; blend at run time.")
