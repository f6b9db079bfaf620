"""Pydantic's findings as one line each: the place, the key, what is wrong and what may have been meant."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from frolic.config.tree import Entry, Problems, locate, plain
from frolic.errors import nearest

SectionT = TypeVar("SectionT", bound="Section")


class Section(BaseModel):
    """Base of every part of a recipe: unknown keys, loose types and values that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def validate(
    model: type[SectionT], tree: Entry, problems: Problems, *, prefix: Sequence[str] = (), skip: Sequence[str] = ()
) -> SectionT | None:
    """``tree`` as a ``model``, or None with what is wrong added to ``problems``.

    Args:
        prefix: where ``tree`` stands in the recipe, for naming keys.
        skip: top-level keys of ``tree`` that belong to somebody else.
    """
    if not isinstance(tree.value, dict):
        problems.add(tree.where, f"{'.'.join(prefix) or 'a recipe'} must be a mapping of keys to values")
        return None
    tree = Entry({key: entry for key, entry in tree.value.items() if key not in skip}, tree.where)
    try:
        return model.model_validate(plain(tree, problems))
    except ValidationError as error:
        for found in error.errors(include_url=False):
            path = found["loc"]
            key = ".".join(str(part) for part in (*prefix, *path))
            problems.add(locate(tree, path), _say(model, key, path, found))
        return None


def _say(model: type[BaseModel], key: str, path: tuple[int | str, ...], found: Any) -> str:
    if found["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(str(path[-1]), _keys(model, path[:-1]))}"
    if found["type"] == "missing":
        return f"{key!r} is required but not set"
    reason = found["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    given = found["input"]
    shown = "" if isinstance(given, dict | list) else f", not {given!r:.60}"
    return f"{key!r}: {reason}{shown}" if key else reason


def _keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys of the model that ``path`` leads to from ``model``."""
    current: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, str) and current is not None:
            field = current.model_fields.get(part)
            current = _model_in(field.annotation) if field else None
    return list(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, list, tuple):
        return next(filter(None, map(_model_in, get_args(annotation))), None)
    return None
