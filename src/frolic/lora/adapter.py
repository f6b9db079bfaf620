"""An adapter: changes of a model's linears by name, made of the tensors of a file in any dialect."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from frolic.errors import CheckpointError
from frolic.lora import dialect
from frolic.lora.delta import Delta, stacked
from frolic.lora.names import FLAT_PREFIXES, TEXT_PREFIXES, Names, Place

METADATA = "lora_adapter_metadata"  # diffusers' key

Shapes = Mapping[str, tuple[int, int]]
"""Our linears and their weights' [outputs, inputs]."""
Note = Callable[[str, str], None]
"""Called with a kind of problem and what has it."""


@dataclass(frozen=True)
class Adapter:
    """``deltas`` by our names of the linears. ``dialect`` says how its file was written, ``metadata`` is the file's;
    ``left_out`` is what of it was passed over."""

    deltas: Mapping[str, Delta]
    dialect: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    left_out: tuple[str, ...] = ()

    @property
    def ranks(self) -> list[int]:
        """All ranks that occur, ascending."""
        return sorted({delta.rank for delta in self.deltas.values()})


@dataclass(frozen=True)
class Loaded:
    """An adapter by the name that records call it, with the SHA-256 of its file. ``expert``: which of two experts it is
    for, ``high`` or ``low``, or empty where nothing says so."""

    name: str
    hash: str
    adapter: Adapter
    expert: str = ""


def parse(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    names: Names,
    shapes: Shapes,
    note: Note,
    peft: Mapping[str, Any] | None = None,
    parts: Sequence[str] = ("transformer",),
) -> Adapter:
    """The adapter that ``tensors`` describe. What cannot be used of them is told to ``note`` and left out.

    ``peft`` is what an ``adapter_config.json`` beside the file says. A layer's own ``alpha`` counts before it, and it
    before the file's metadata; without any of them alpha is the rank. ``parts`` are those of a model that the metadata
    may speak of: the first of them that it does counts.
    """
    modules, foreign = dialect.split(tensors)
    for key in foreign:
        what = dialect.kind_of_foreign(key)
        note(f"of a kind that is not supported ({what})" if what else "not of an adapter", key)
    scaling = _Scalings(metadata, peft, parts)
    found: dict[str, list[tuple[Place, str, dialect.Pieces]]] = {}
    for module, pieces in modules.items():
        place = names.find(module)
        if place is None:
            text = module.startswith(TEXT_PREFIXES)
            for key in pieces.keys:
                note(
                    "of a text encoder, which adapters do not change here" if text else "of no layer of this model", key
                )
        else:
            found.setdefault(place.linear, []).append((place, module, pieces))
    deltas = {}
    for linear, members in found.items():
        made = _merged(linear, members, shapes[linear], scaling, note)
        if made is not None:
            deltas[linear] = made
    return Adapter(deltas, name_of(modules, metadata), dict(metadata))


def _merged(
    linear: str,
    members: list[tuple[Place, str, dialect.Pieces]],
    shape: tuple[int, int],
    scaling: _Scalings,
    note: Note,
) -> Delta | None:
    rows, columns = shape
    parts: list[tuple[slice, Delta]] = []
    taken: list[slice] = []
    for place, module, pieces in sorted(members, key=lambda member: (member[0].part, member[1])):
        span = place.rows(rows)
        if any(span.start < other.stop and other.start < span.stop for other in taken):
            note("for a layer that the file has twice", module)
            continue
        taken.append(span)
        try:
            parts.append((span, dialect.delta(pieces, (span.stop - span.start, columns), scaling.of(module))))
        except CheckpointError as error:
            note("layer that cannot be read", f"{module} {error}")
    return stacked(parts, rows, columns) if parts else None


class _Scalings:
    """What is said of alpha and rank outside of the tensors."""

    def __init__(self, metadata: Mapping[str, str], peft: Mapping[str, Any] | None, parts: Sequence[str]) -> None:
        given: Any = peft
        if given is None:
            given = _of_part(_json(metadata.get(METADATA, "")), parts)
        self._alpha = _number(given.get("lora_alpha"))
        self._patterns = {str(k): _number(v) for k, v in (given.get("alpha_pattern") or {}).items()}
        self._stabilised = str(given.get("use_rslora", False)).lower() in ("true", "1")

    def of(self, module: str) -> dialect.Scaling:
        """PEFT's patterns are expressions that the end of a module's name has to match."""
        for pattern, alpha in self._patterns.items():
            try:
                matches = re.match(rf"(.*\.)?({pattern})$", module) is not None
            except re.error:
                matches = module.endswith(pattern)
            if matches:
                return dialect.Scaling(alpha, self._stabilised)
        return dialect.Scaling(self._alpha, self._stabilised)


def _of_part(settings: Mapping[str, Any], parts: Sequence[str]) -> Mapping[str, Any]:
    """diffusers writes each setting under the part's name: ``transformer.lora_alpha``."""
    for part in parts:
        own = {key.removeprefix(f"{part}."): value for key, value in settings.items() if key.startswith(f"{part}.")}
        if own:
            return own
    return {key: value for key, value in settings.items() if "." not in key}


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def name_of(modules: Mapping[str, dialect.Pieces], metadata: Mapping[str, str]) -> str:
    """What a file's dialect is called."""
    kinds = {kind for pieces in modules.values() for kind in pieces.tensors}
    first = next(iter(modules), "")
    form = ""
    if any(kind.startswith("hada") for kind in kinds):
        form = "LoHa"
    elif kinds & {"w1", "w1_a"}:
        form = "LoKr"
    elif "magnitude" in kinds:
        form = "DoRA"
    elif "diff" in kinds:
        form = "full difference"
    if first.startswith("lora_unet__"):
        family = "VideoX-Fun"
    elif first.startswith("lycoris_"):
        family = "LyCORIS"
    elif first.startswith(FLAT_PREFIXES):
        family = "kohya"
    elif first.startswith("base_model.model."):
        family = "PEFT"
    elif first.startswith("diffusion_model."):
        family = "ComfyUI"
    elif first.startswith(("transformer.", "unet.")):
        family = "diffusers"
    else:
        family = "bare"
    if "ai-toolkit" in metadata.get("software", ""):
        family = f"ai-toolkit ({family})"
    return f"{family}, {form}" if form else family
