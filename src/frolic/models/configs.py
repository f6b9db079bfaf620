"""Strict reading of the ``config.json`` that a published component carries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from frolic.errors import CheckpointError, nearest


@dataclass(frozen=True)
class Kind:
    """What an entry may be: ``fits`` decides, ``says`` completes "it must be ..."."""

    says: str
    fits: Callable[[Any], bool]

    def or_none(self) -> Kind:
        return Kind(f"{self.says} or null", lambda value: value is None or self.fits(value))

    def list(self) -> Kind:
        return Kind(
            f"a list, each {self.says}", lambda value: isinstance(value, (list, tuple)) and all(map(self.fits, value))
        )

    def or_list(self) -> Kind:
        many = self.list()
        return Kind(f"{self.says}, or a list of such", lambda value: self.fits(value) or many.fits(value))


def whole(low: int, high: int) -> Kind:
    """An integer from ``low`` to ``high``. A bound on what a file may ask for is what keeps building it short."""
    return Kind(f"a whole number, {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e18


SIZE = whole(1, 2**20)
LAYERS = whole(1, 1024)
POSITIVE = Kind("a number above 0 and below 1e18", _is_positive)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a text", lambda value: isinstance(value, str))
MAPPING = Kind("an object", lambda value: isinstance(value, Mapping))


def read_config(
    raw: Mapping[str, Any],
    *,
    what: str,
    known: Mapping[str, Kind],
    fixed: Mapping[str, Collection[Any]],
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """The entries of ``raw`` that ``known`` names, after checking all of it.

    ``known`` says what each entry may be, ``fixed`` lists entries that are understood with certain values only,
    ``ignored`` those that change nothing here. Names that start with an underscore are the writer's notes.

    Raises:
        CheckpointError: naming every entry that is unknown or has a value this model cannot honour.
    """
    problems = []
    values = {}
    for key, value in raw.items():
        if key in known:
            values[key] = value
            if not known[key].fits(value):
                problems.append(f"{key} is {_short(value)}, it must be {known[key].says}")
        elif key in fixed:
            if value not in fixed[key]:
                allowed = ", ".join(map(repr, fixed[key]))
                problems.append(f"{key} is {_short(value)}, supported: {allowed}")
        elif not key.startswith("_") and key not in ignored:
            problems.append(f"{key} is unknown{nearest(key, [*known, *fixed])}")
    refuse(what, problems)
    return values


def refuse(what: str, problems: Collection[str]) -> None:
    """Raise all ``problems`` of the ``what`` config as one ``CheckpointError``, if there are any."""
    if problems:
        raise CheckpointError(f"The {what} config cannot be used; check that it belongs to one: " + "; ".join(problems))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
