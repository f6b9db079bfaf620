"""In which naming a file's tensors come, found from nothing but their names and shapes.

A published part comes in diffusers' naming beside a ``config.json``, or in its authors' naming in one file without one,
which other programs write under a prefix of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from frolic.errors import CheckpointError
from frolic.keymap import KeyMap
from frolic.spec import ComponentSpec, FamilySpec

DIFFUSERS, ORIGINAL = "diffusers", "original"

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "net.", "")
"""What programs put before the authors' names; the more specific first."""

COMFY: Mapping[str, str] = MappingProxyType({"transformer": PREFIXES[0]})
"""The prefix that ComfyUI writes before the authors' names, by part."""

Shapes = Mapping[str, tuple[int, ...]]


class HasShape(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


E = TypeVar("E", bound=HasShape)


@dataclass(frozen=True)
class Guess:
    """A config from names and shapes alone, and what they leave open.

    ``assumed`` holds fields of the config that they do not tell, each with a sentence for the user, or none where all
    published files agree. ``unknown`` are fields without which the file cannot be used, and what they are called.
    """

    config: Any
    assumed: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Detected:
    """Which ``part`` of which ``family`` a file holds, in which ``layout``, with ``prefix`` before every name."""

    family: str
    part: str
    layout: str
    prefix: str


@dataclass(frozen=True)
class Located(Generic[E]):
    """A part that was found in a file: all that is needed to build it and to read it.

    ``keymap`` knows the file's prefix. ``assumed`` are sentences about what the file does not say.
    """

    part: str
    spec: ComponentSpec
    layout: str
    prefix: str
    keymap: KeyMap
    config: Any
    entries: Mapping[str, E]
    assumed: tuple[str, ...] = ()


def parts_of(family: FamilySpec) -> Mapping[str, ComponentSpec]:
    """Every part of a family that has weights, those that not all of its models have included."""
    return {**family.components, **family.optional}


def maps_of(spec: ComponentSpec, config: Any) -> Mapping[str, KeyMap]:
    """The key map of each layout that a part comes in, by the layout's name."""
    return {DIFFUSERS: spec.keymap(config), **{name: make(config) for name, make in spec.layouts.items()}}


def detect(tensors: Iterable[str], families: Mapping[str, FamilySpec], where: str = "The file") -> Detected:
    """Which part of which family has these tensor names.

    Raises:
        CheckpointError: no layout of any part accounts for most of them.
    """
    names = list(tensors)
    best, found = (0, 0), None
    for prefix in PREFIXES:
        inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if not inside:
            continue
        for family in families.values():
            for part, spec in parts_of(family).items():
                for layout, keymap in maps_of(spec, spec.configure({})).items():
                    known = [name for name in inside if keymap.knows(name)]
                    dropped = sum(keymap.drops(name) for name in inside)
                    # First what accounts for the most names, then what has a use for the most of them: a ControlNet's
                    # file holds a transformer too.
                    score = (len(known) + dropped, len(known))
                    if score > best:
                        best, found = score, Detected(family.name, part, layout, prefix)
    if found is None or 2 * best[0] <= len(names):
        shown = ", ".join(names[:3]) or "none"
        raise CheckpointError(
            f"{where} holds no model that frolic knows (its tensors: {shown}); give a file of a model of "
            f"{', '.join(families)}."
        )
    return found


def locate(
    entries: Mapping[str, E],
    families: Mapping[str, FamilySpec],
    where: str = "The file",
    known: Mapping[str, Any] | None = None,
    own: Mapping[str, Any] | None = None,
    family: str | None = None,
) -> Located[E]:
    """What a file without a ``config.json`` holds, and the config that its shapes tell.

    ``entries`` are its tensors by name, each with a ``shape``. ``known`` are configs by part of a model that the file
    may belong to: where one agrees with all that the shapes tell, it answers what they leave open too, and where it
    does not, that is said. ``own`` are configs that came with the file itself, and have to agree. Both say nothing of a
    part of another family. ``family`` is the one of the model that it has to go with.

    Raises:
        CheckpointError: the file holds nothing that frolic knows, or not enough to find its config, or contradicts the
            one that came with it, or is of another family.
    """
    found = detect(entries, families, where)
    if family is not None and found.family != family:
        raise CheckpointError(
            f"{where} holds a {found.part} of the family {found.family}, but the model that it is to go with is of "
            f"{family}; choose another --base, or another file."
        )
    spec = parts_of(families[found.family])[found.part]
    kind = type(spec.configure({}))
    given, other = (each.get(found.part) if each else None for each in (own, known))
    given, other = (each if isinstance(each, kind) else None for each in (given, other))
    config, assumed = _settle(spec, found, entries, given or other, where, given is not None)
    keymap = maps_of(spec, config)[found.layout].under(found.prefix)
    return Located(found.part, spec, found.layout, found.prefix, keymap, config, entries, assumed)


def _settle(
    spec: ComponentSpec, found: Detected, entries: Mapping[str, HasShape], known: Any, where: str, own: bool
) -> tuple[Any, tuple[str, ...]]:
    """The config, and what had to be assumed for it."""
    if found.layout == DIFFUSERS or spec.guess is None:
        if known is None:
            raise CheckpointError(
                f"{where} has diffusers' names but no config.json beside it; name the model that its {found.part} "
                "belongs to (--base)."
            )
        return known, ()
    size = len(found.prefix)
    guess = spec.guess({name[size:]: tuple(entry.shape) for name, entry in entries.items()})
    assert isinstance(guess, Guess)
    differs = "" if known is None else _differences(guess, known)
    if known is not None and not differs:
        return known, ()
    if own:
        raise CheckpointError(f"{where} contradicts the config.json beside it in {differs}; get both again.")
    if guess.unknown:
        other = f" (the one given differs in {differs})" if differs else ""
        raise CheckpointError(
            f"{where} does not tell the {' and the '.join(dict.fromkeys(guess.unknown.values()))} of its {found.part}; "
            f"name a model of the same shape (--base){other}."
        )
    said = f"The {found.part} of the model it goes with says nothing about this one: it differs in {differs}."
    return guess.config, tuple(filter(None, (said if differs else "", *dict.fromkeys(guess.assumed.values()))))


def _differences(guess: Guess, known: Any) -> str:
    """What of all that the shapes tell a ``known`` config contradicts, in words, or nothing."""
    unsaid = {*guess.assumed, *guess.unknown}
    said = []
    for name in (entry.name for entry in fields(guess.config) if entry.init and entry.name not in unsaid):
        one, other = getattr(guess.config, name), getattr(known, name)
        if one != other:
            short = all(isinstance(value, (bool, int, float, str)) or value is None for value in (one, other))
            said.append(f"{name} ({one} and {other})" if short else name)
    return ", ".join(said)


def shape_of(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...] | None:
    """The shape of ``name``, or None where there is no such tensor.

    Raises:
        CheckpointError: it has not so many ``dimensions``, or one of them is empty.
    """
    shape = shapes.get(name)
    if shape is not None and (len(shape) != dimensions or 0 in shape):
        said = "x".join(map(str, shape)) or "a scalar"
        raise CheckpointError(f"{name} is {said}, where {dimensions} dimensions are needed; get the file again.")
    return shape


def required(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of ``name``. Raises as ``shape_of``, also where there is no such tensor."""
    shape = shape_of(shapes, name, dimensions)
    if shape is None:
        raise CheckpointError(f"{name} is missing, without which nothing is known of the model; get the file again.")
    return shape
