"""``frolic data``: make the training sets that the recipes read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the ``data`` commands."""
    data = typer.Typer(no_args_is_help=True, help="Make the training sets that the recipes read.")
    data.command("starter")(starter)
    data.command("starter-video")(starter_video)
    app.add_typer(data, name="data")


def starter(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; by default starter-data in frolic's cache.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print progress and result as JSON lines.")] = False,
) -> None:
    """Fetch pinned, openly licensed pictures and labels with npm and apt-get, and pack the starter's training set."""
    from frolic.data.starter.pack import build, default_folder

    target = (out or default_folder()).expanduser()
    if as_json:
        pack = build(target, progress=lambda done, total: _line(done, total))
        typer.echo(json.dumps({"folder": str(target), **pack}))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), transient=True) as bar:
        task = bar.add_task("fetching and drawing sprites", total=None)
        pack = build(target, progress=lambda done, total: bar.update(task, completed=done, total=total))
    styles = ", ".join(f"{count} {style}" for style, count in pack["styles"].items())
    typer.echo(
        f"{pack['concepts']} concepts ({pack['everyday']} everyday): {pack['pictures']} pictures"
        f"{f' ({styles})' if styles else ''}, {pack['captions']} captions, {pack['synonyms']} synonyms and "
        f"{pack['near']} words that are near in {target}"
    )


def starter_video(
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; by default starter-video-data/ in frolic's cache.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder made by `frolic data starter`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print progress and result as JSON lines.")] = False,
) -> None:
    """Fetch pinned, openly licensed animations with npm (0.7 GB), and pack those of the starter's things (1.0 GB)."""
    from frolic.data.starter import animated
    from frolic.data.starter.pack import default_folder, read

    target = (out or animated.default_file()).expanduser()
    _, concepts = read((data or default_folder()).expanduser())
    made = animated.build(concepts, target, progress=_line if as_json else None)
    if as_json:
        typer.echo(json.dumps({"file": str(target), **made}))
    else:
        typer.echo(f"{made['loops']} animated things in {target}; {made['static']} stand still and were left out")


def _line(done: int, total: int) -> None:
    if done % 100 == 0 or done == total:
        typer.echo(json.dumps({"done": done, "total": total}))
