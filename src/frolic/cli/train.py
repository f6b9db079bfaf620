"""``frolic train RECIPE``: run a training job, or show what one would do."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from frolic.config import Recipe
    from frolic.train.trainer import Outcome


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train")(train)


def train(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe (see --list) or a YAML file.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changed settings.")] = None,
    env: Annotated[str, typer.Option(help="Overlay of the recipe: gpu, cpu, ci, none or auto (by device).")] = "auto",
    resume: Annotated[str, typer.Option(help="auto, never, or a checkpoint or run folder.")] = "auto",
    steps: Annotated[int | None, typer.Option(min=0, help="Stop after this step; the schedule is not changed.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the shipped recipes.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe, and show what memory it would take; train nothing.")
    ] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show the recipe as it would be run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON lines.")] = False,
) -> None:
    """Train a model by a recipe; run it again to go on where it stopped."""
    from frolic.errors import ConfigError

    if list_:
        _show_recipes(as_json)
        return
    if recipe is None:
        raise ConfigError("Name a recipe, for example `frolic train starter/image`; --list shows them.")
    from frolic.config import load_recipe
    from frolic.train.jobs import built_in

    jobs = built_in()
    chosen = load_recipe(recipe, overrides or (), None if env == "none" else env, jobs)
    if print_config:
        _show_config(chosen, as_json)
        return
    if dry_run:
        _show_plan(chosen, as_json)
        return
    outcome = run(chosen, resume, steps, as_json)
    result = {"step": outcome.step, "checkpoint": str(outcome.checkpoint), "export": str(outcome.export or "")}
    if as_json:
        typer.echo(json.dumps({"event": "done", **result}))
    else:
        written = f"the model is in {outcome.export}" if outcome.export else f"its state is in {outcome.checkpoint}"
        typer.echo(f"Step {outcome.step} of {chosen.trainer.steps} is done; {written}.")


def _show_recipes(as_json: bool) -> None:
    from frolic.config import list_recipes

    recipes = list_recipes()
    if as_json:
        typer.echo(json.dumps(recipes))
    else:
        width = max(map(len, recipes), default=0)
        for name, description in recipes.items():
            typer.echo(f"{name:<{width}}  {description}")


def _show_config(recipe: Recipe, as_json: bool) -> None:
    import yaml

    values = recipe.to_dict()
    typer.echo(json.dumps(values) if as_json else yaml.safe_dump(values, sort_keys=False).rstrip())


def _show_plan(recipe: Recipe, as_json: bool) -> None:
    from frolic.train.jobs import built_in

    memory = built_in().find(recipe.job.kind).memory
    plan = None if memory is None else memory(recipe, False)
    if as_json:
        typer.echo(json.dumps({"recipe": recipe.name, "memory": None if plan is None else plan.facts()}))
        return
    typer.echo(f"{recipe.name} can be run: {recipe.trainer.steps} steps of {recipe.trainer.batch_size}.")
    unknown = f"What memory a job of the kind {recipe.job.kind} takes is not worked out."
    for line in [unknown] if plan is None else plan.lines():
        typer.echo(line)


def run(recipe: Recipe, resume: str, steps: int | None, as_json: bool) -> Outcome:
    """Train by ``recipe``, with progress shown.

    Raises:
        typer.Exit: a signal stopped it; what to do then has been said.
    """
    import torch

    from frolic.train.jobs import built_in
    from frolic.train.memory import keep_freed_memory
    from frolic.train.progress import choose, heard
    from frolic.train.trainer import Trainer

    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, of convolutions as of products
    if recipe.trainer.threads:
        torch.set_num_threads(recipe.trainer.threads)
    progress = choose(sys.stdout if as_json else sys.stderr, as_json)
    torch.manual_seed(recipe.trainer.seed)
    with heard(progress):
        kinds = built_in()
        memory = kinds.find(recipe.job.kind).memory
        if memory is not None:
            progress.note(memory(recipe, True).summary())
        job = kinds.build(recipe)
    outcome = Trainer(recipe, job, progress).run(resume, steps)
    if outcome.stopped_by is not None:
        progress.note(f"Stopped after step {outcome.step}; run the same command to go on.")
        raise typer.Exit(128 + outcome.stopped_by)
    return outcome
