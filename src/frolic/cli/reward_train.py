"""``frolic reward train``: learn a reward from the choices in a ``pairs.jsonl``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer

RECIPE = "starter/preference"


def train(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="The pairs.jsonl that `frolic reward label` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the reward; a trained one is replaced.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=f"Changed settings of {RECIPE}.")
    ] = None,
    resume: Annotated[str, typer.Option(help="auto, never, or a checkpoint or run folder.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON lines.")] = False,
) -> None:
    """Learn a reward from choices and say how far it agrees with those that were held out.

    Checkpoints are in OUTPUT.run, a folder of it for every set of choices and settings: run the same command again to
    go on where it stopped.
    """
    from frolic.cli.train import run
    from frolic.config import load_recipe
    from frolic.errors import FileError
    from frolic.io.files import existing_file, read_json_object
    from frolic.train.jobs import built_in

    pairs, output = pairs.expanduser(), output.expanduser()
    content = existing_file(pairs).read_bytes()
    if output.exists() and not (output / ".frolic-export").is_file():
        raise FileError(f"{output} exists and holds no trained reward; choose another --output.")
    changed = [f"{override}\0".encode() for override in overrides or ()]
    name = hashlib.sha256(b"\0".join([content, *changed])).hexdigest()[:12]
    own = {
        "vars.pairs": pairs.absolute(),
        "output.folder": output.with_name(f"{output.name}.run").absolute() / name,
        "output.export": output.absolute(),
    }
    jobs = built_in()
    given = [f"{key}={_quoted(str(value))}" for key, value in own.items()]
    outcome = run(load_recipe(RECIPE, [*given, *(overrides or ())], "auto", jobs), resume, None, as_json)
    assert outcome.export is not None
    facts = read_json_object(outcome.export / "config.json")
    if as_json:
        said = {key: facts[key] for key in ("pairs", "held_out", "agreement", "pairs_hash")}
        typer.echo(json.dumps({"event": "done", "step": outcome.step, "folder": str(outcome.export), **said}))
        return
    typer.echo(f"Learned from {facts['pairs'] - facts['held_out']} choices: {outcome.export}.")
    if facts["agreement"] is None:
        typer.echo("None that says which is better was held out, so how well it agrees is not known; choose more.")
    else:
        typer.echo(f"It agrees with {facts['agreement']:.0%} of the choices among {facts['held_out']} held-out pairs.")


def _quoted(text: str) -> str:
    """As a value of an override: JSON's texts are YAML's, and nothing in it is a variable."""
    return json.dumps(text).replace("${", "$${")
