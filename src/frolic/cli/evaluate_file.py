"""The file of ``eval starter --out``: figures of one model, to which other commands add theirs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from frolic.pipeline import Pipeline

ADDED = ("fid", "reconstruction")
"""Figures that are added to a file of ``eval starter --out``, each by a command of its own."""


def _measured(figures: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """The weights and the adapters that ``eval starter``'s figures, or one that was added to them, were measured
    with."""
    settings = figures.get("settings") or figures
    return settings.get("weights"), settings.get("loras", [])


def check_same(path: Path | None, pipe: Pipeline) -> None:
    """A figure is not put beside those of other weights; said before anything is drawn.

    Raises RequestError. FileError: the file cannot be read, or written.
    """
    from frolic.errors import RequestError
    from frolic.io.files import check_writable

    if path is not None:
        check_writable(path, force=True)
    there = _read(path) if path is not None else {}
    found = [_measured(each) for each in (there, *_added(there).values())]
    if any(weights is not None and (weights, loras) != (pipe.card.hash, []) for weights, loras in found):
        raise RequestError(
            f"The figures in {path} are of other weights or adapters than this model's: measure it with `frolic eval "
            "starter --out` first, or give another file with --out."
        )


def _read(path: Path) -> dict[str, Any]:
    from frolic.io.files import read_json_object

    return read_json_object(path) if path.exists() else {}


def _added(figures: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: figures[name] for name in ADDED if isinstance(figures.get(name), Mapping)}


def add(path: Path, name: str, figure: Mapping[str, Any], pipe: Pipeline) -> None:
    """Put a figure into the JSON object at ``path``, beside what is there."""
    from frolic.io.files import write_json

    write_json(path, _read(path) | {name: {**figure, "weights": pipe.card.hash}}, force=True)


def replace(path: Path, figures: dict[str, Any]) -> None:
    """Write ``figures``, with those that were added to the file before and are of the same weights; what goes because
    it is of others is said."""
    from frolic.io.files import write_json

    added = _added(_read(path))
    kept = {name: each for name, each in added.items() if _measured(each) == _measured(figures)}
    write_json(path, figures | kept, force=True)
    for name in added.keys() - kept.keys():
        typer.echo(f"{path}: {name} was of other weights or adapters and is gone; measure it again.", err=True)
