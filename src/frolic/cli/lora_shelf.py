"""``frolic lora list``, ``add`` and ``remove``: adapters that have a name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show(as_json: _JSON = False) -> None:
    """List the adapters that have a name, for --lora NAME:WEIGHT."""
    from frolic.adapters.shelf import shelf

    there, broken = shelf()
    if as_json:
        typer.echo(json.dumps({"adapters": [each.facts() for each in there], "broken": dict(broken)}))
        return
    if not there and not broken:
        typer.echo("There are none; frolic lora add FILE gives one a name.")
    for each in there:
        whose = "ships with frolic" if each.shipped else "yours"
        base = f", for {_safe(each.base)}" if each.base else ""
        rank = f", rank {_safe(each.rank)}" if each.rank else ""
        typer.echo(f"{each.name}  ({whose}{base}{rank}, {each.bytes / 1e3:.0f} kB)")
        advice = f"--lora {each.name}:{each.weight:g}"
        typer.echo(f"  {advice}" + (f', with "{_safe(each.trigger)}" in the prompt' if each.trigger else ""))
        if each.about:
            typer.echo(f"  {_safe(each.about)}")
        if each.reward:
            typer.echo(f"  {_safe(_gained(each.reward))}")
        if each.trained_on:
            typer.echo(f"  trained on {_safe(each.trained_on)}")
    for name, problem in broken.items():
        typer.echo(f"{name}  cannot be used: {_safe(problem)}")


def _gained(reward: Mapping[str, Any]) -> str:
    """What an adapter says that it gained, of held-out prompts. The file may hold anything."""
    others = reward.get("held_out")
    beside = ", ".join(f"{name} {gain}" for name, gain in others.items()) if isinstance(others, dict) else ""
    gained = f"reward {reward.get('name')}: {reward.get('gain_sd')} deviations more than without it"
    return f"{gained}; {beside}" if beside else gained


def add(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="An adapter's file, or the folder that holds one.")],
    name: Annotated[str | None, typer.Option(help="What to call it [the file's name].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the one that has the name.")] = False,
    as_json: _JSON = False,
) -> None:
    """Keep a copy of an adapter under a name."""
    from frolic.adapters import shelf

    added = shelf.add(source, name, force=force)
    if as_json:
        typer.echo(json.dumps({"event": "added", **added.facts()}))
    else:
        typer.echo(f"{added.path}\nUse it with --lora {added.name}:{added.weight:g}")


def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of your own.")],
    as_json: _JSON = False,
) -> None:
    """Delete an adapter that you gave a name."""
    from frolic.adapters import shelf

    path = shelf.remove(name)
    typer.echo(json.dumps({"event": "removed", "path": str(path)}) if as_json else f"removed {path}")


def _safe(text: str) -> str:
    """For a terminal: what a file says must not steer it."""
    return "".join(char if char.isprintable() else "?" for char in text[:200])
