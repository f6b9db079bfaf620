"""Strict reading of the ``config.json`` that a published component carries."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from frolic.errors import CheckpointError, nearest


def read_config(
    raw: Mapping[str, Any],
    *,
    what: str,
    known: Collection[str],
    fixed: Mapping[str, Collection[Any]],
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """The entries of ``raw`` that ``known`` names, after checking all of it.

    ``fixed`` lists entries that are understood with certain values only, ``ignored`` those that change nothing here.
    Names that start with an underscore are the writer's notes.

    Raises:
        CheckpointError: naming every entry that is unknown or has a value this model cannot honour.
    """
    problems = []
    values = {}
    for key, value in raw.items():
        if key in known:
            values[key] = value
        elif key in fixed:
            if value not in fixed[key]:
                allowed = ", ".join(map(repr, fixed[key]))
                problems.append(f"{key} is {value!r}, supported: {allowed}")
        elif not key.startswith("_") and key not in ignored:
            problems.append(f"{key} is unknown{nearest(key, [*known, *fixed])}")
    if problems:
        raise CheckpointError(f"The {what} config cannot be used; check that it belongs to one: " + "; ".join(problems))
    return values
