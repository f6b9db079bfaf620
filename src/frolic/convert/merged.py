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
from frolic.errors import CheckpointError
from frolic.io.folder import Component, open_folder
from frolic.io.safetensors import Entry, read_headers
from frolic.lora.adapter import Loaded
from frolic.lora.blend import merge_into
from frolic.lora.delta import Delta
from frolic.lora.experts import EXPERTS
from frolic.models.layouts import DIFFUSERS, Located
from frolic.models.registry import families
from frolic.plan import Watch, find_model, make_plan

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
    float32 from the original and rounded once, to ``dtype`` or to what it was stored in (from 8 bits to bfloat16). Of
    two experts each gets the adapters that are for it. The files of a changed part say which adapters are in them
    (``RECIPE``).

    Raises:
        NumericsError: a merged weight is not finite.
        ModelError: the model or an adapter cannot be used; nothing is written.
        FileError, ResourceError: the folder cannot be written, or is there already and ``force`` is not set.
    """
    out = Path(out).expanduser()
    origin = open_folder(find_model(model, watch), families())
    check_folder(out, whole=True, force=force)
    check_apart(out, [origin.path])
    kind = None if dtype is None else getattr(torch, dtype)
    there = {name: expert for name, expert in EXPERTS.items() if name in origin.components}
    used: dict[str, Loaded] = {}
    jobs: dict[str, tuple[Job, str]] = {}
    layers = 0
    for name, expert in there.items():
        component = origin.components[name]
        goal = target(component.spec, component.config)
        mine = []
        for source, weight in adapters:
            each = load(source, goal, allow_partial=allow_partial, expert=expert)
            if len(there) == 1 or each.expert in ("", expert):
                mine.append((each, weight))
                used[source] = each
        changes = _changes(mine)
        if changes or dtype is not None:
            job = _job(name, component, changes, kind)
            recipe = [{"name": each.name, "weight": weight, "sha256": each.hash} for each, weight in mine]
            jobs[name], layers = (job, json.dumps(recipe)), layers + len(changes)
    with workspace(out) as work:
        made = work / "made"
        for name, (job, said) in jobs.items():
            write_part(job, made / name, _SHARD_BYTES, {"format": "pt", RECIPE: said})
        made.mkdir(exist_ok=True)
        copy_rest(origin, made, *jobs)
        make_plan(made, device="cpu")
        check_folder(out, whole=True, force=force)
        publish(made, out)
    size = sum(maker.bytes for job, _ in jobs.values() for maker in job.makers.values())
    left_out = {each.name: each.adapter.left_out for each in used.values() if each.adapter.left_out}
    return Merged(out, tuple(each.name for each in used.values()), left_out, layers, size)


def _changes(parts: Sequence[tuple[Loaded, float]]) -> dict[str, list[tuple[Delta, float]]]:
    """All changes of each linear, by its name."""
    found: dict[str, list[tuple[Delta, float]]] = {}
    for each, weight in parts:
        for linear, delta in each.adapter.deltas.items():
            if weight:
                found.setdefault(linear, []).append((delta, weight))
    return found


def _job(
    name: str,
    component: Component,
    changes: Mapping[str, Sequence[tuple[Delta, float]]],
    dtype: torch.dtype | None,
) -> Job:
    weights = next(iter(component.weights.values()))
    keymap = component.spec.keymap(component.config)
    found = Located(name, component.spec, DIFFUSERS, "", keymap, component.config, read_headers(weights))
    _check_biases(changes, found)
    changed = {f"{linear}.{kind}" for linear in changes for kind in ("weight", "bias")}

    def change(key: str, tensor: Tensor) -> Tensor:
        return _changed(key, tensor, changes)

    return Job(found, keymap, weights, dtype=dtype, extra=None, change=change, changed=changed)


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
