"""From an adapter's file, or the folder that PEFT or diffusers saved it in, to what it changes of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frolic.adapters.folder import find
from frolic.errors import CheckpointError
from frolic.io.problems import Problems
from frolic.io.safetensors import read_tensors
from frolic.keymap import KeyMap
from frolic.lora.adapter import Adapter, parse
from frolic.lora.experts import EXPERTS, HIGH, LOW, inside, of_expert, part_of
from frolic.lora.layer import linears
from frolic.lora.names import Names
from frolic.spec import ComponentSpec

DIFFUSERS = "diffusers"


@dataclass(frozen=True)
class Target:
    """The part of a model that adapters are for: its linears, and what other programs call them. ``layouts`` hold the
    published naming as ``diffusers`` and the authors' own as ``original``, where the family has it."""

    names: Names
    shapes: Mapping[str, tuple[int, int]]

    @property
    def layouts(self) -> Mapping[str, KeyMap]:
        return self.names.layouts


def target(spec: ComponentSpec, config: Any, module: nn.Module | None = None) -> Target:
    """What adapters can change of the part that ``spec`` and ``config`` describe. Where there is no ``module``, one
    without memory gives the shapes."""
    if module is None:
        with torch.device("meta"):
            module = spec.build(config)
    shapes = linears(module)
    layouts = {DIFFUSERS: spec.keymap(config), **{name: keymap(config) for name, keymap in spec.layouts.items()}}
    return Target(Names(shapes, layouts), shapes)


def read(path: Path, goal: Target, *, allow_partial: bool = False, expert: str = HIGH) -> Adapter:
    """The adapter in ``path``, all of which must fit ``goal``; with ``allow_partial`` what does not fit is passed over.
    Of a file with adapters of two experts it is that of ``expert`` (``high`` or ``low``).

    Raises:
        ModelNotFoundError: there is no adapter there.
        UnsafeFileError: it is a pickle.
        CheckpointError: listing every tensor that fits no layer, or not its layer; and, whatever is allowed, when the
            file is broken or holds what is not finite, its folder points out of itself, or nothing in it fits.
    """
    found = find(path)
    broken = Problems(f"{found.path} cannot be used; get the adapter again")
    whole = read_tensors(found.entries(), broken)
    tensors = of_expert(whole, expert)
    broken.raise_any(CheckpointError)
    unfit = f"{found.path} does not fit this model; load it with its own"
    problems = Problems(f"{unfit}, or pass --allow-partial to use the rest")
    known = goal.names.known()
    unplaced = "of no layer of this model"

    left_out: list[str] = []

    def note(kind: str, what: str) -> None:
        problems.add(kind, what, known if kind == unplaced else ())
        left_out.append(what)

    # Of a file of one expert, settings under the other's name are its own.
    parts = [part_of(expert)] if inside(whole) else list(EXPERTS)[:: -1 if expert == LOW else 1]
    adapter = parse(tensors, found.metadata(), goal.names, goal.shapes, note, found.peft, parts)
    if not adapter.deltas:
        problems.headline = unfit
        note("nothing in it is for a layer of this model", found.path.name)
    if not allow_partial or not adapter.deltas:
        problems.raise_any(CheckpointError)
    return replace(adapter, left_out=tuple(left_out))
