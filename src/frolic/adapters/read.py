"""From an adapter's file, or the folder that PEFT or diffusers saved it in, to what it changes of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frolic.errors import CheckpointError, ModelNotFoundError
from frolic.io.files import read_json_object
from frolic.io.problems import Problems
from frolic.io.safetensors import read_header, read_tensors, refuse_pickle
from frolic.keymap import KeyMap
from frolic.lora.adapter import Adapter, parse
from frolic.lora.experts import HIGH, of_expert
from frolic.lora.layer import linears
from frolic.lora.names import Names
from frolic.spec import ComponentSpec

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_CONFIG = "adapter_config.json"
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
            file is broken or holds what is not finite, or nothing in it fits.
    """
    file, peft = find(path)
    header = read_header(file)
    broken = Problems(f"{file} cannot be used; get the adapter again")
    tensors = of_expert(read_tensors(header.entries, broken), expert)
    broken.raise_any(CheckpointError)
    problems = Problems(
        f"{file} does not fit this model; load it with its own, or pass --allow-partial to use the rest"
    )
    known = goal.names.known()
    unplaced = "of no layer of this model"

    left_out: list[str] = []

    def note(kind: str, what: str) -> None:
        problems.add(kind, what, known if kind == unplaced else ())
        left_out.append(what)

    adapter = parse(tensors, header.metadata, goal.names, goal.shapes, note, peft)
    if not adapter.deltas:
        note("nothing in it is for a layer of this model", file.name)
    if not allow_partial or not adapter.deltas:
        problems.raise_any(CheckpointError)
    return replace(adapter, left_out=tuple(left_out))


def find(path: Path) -> tuple[Path, dict[str, Any] | None]:
    """The weights' file at ``path`` or in it, and what PEFT's settings beside it say."""
    path = path.expanduser()
    if not path.exists():
        raise ModelNotFoundError(f"There is no adapter {path}; give a .safetensors file or a folder with one.")
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        inside = sorted(entry for entry in path.iterdir() if entry.suffix == ".safetensors")
        named = [path / name for name in FILES if (path / name).is_file()]
        if not named and len(inside) != 1:
            said = f"{len(inside)} .safetensors files" if inside else "no .safetensors file"
            for entry in [] if inside else sorted(path.iterdir()):
                refuse_pickle(entry) if entry.is_file() else None
            raise ModelNotFoundError(f"{path} holds {said}; name the adapter's file itself.")
        path = (named or inside)[0]
    beside = folder / _CONFIG
    # A config beside a file of another name is another adapter's.
    own = path.name in FILES and beside.is_file()
    return path, read_json_object(beside) if own else None
