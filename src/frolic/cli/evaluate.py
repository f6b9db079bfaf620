"""``frolic eval``: how good a model's pictures are, measured by an independent judge."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from frolic.eval.starter import Row, Summary

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON lines; the last one is the summary.")]


def register(app: typer.Typer) -> None:
    """Add the ``eval`` commands."""
    evaluate = typer.Typer(no_args_is_help=True, help="Measure the quality of a model's pictures.")
    evaluate.command("starter")(starter)
    evaluate.command("train-judge")(train_judge)
    app.add_typer(evaluate, name="eval")


def starter(
    suite: Annotated[str, typer.Option("--suite", help="The prompt suite.")] = "single-everyday",
    model: Annotated[str, typer.Option("--model", "-m", help="Alias or folder of the model to measure.")] = "starter",
    limit: Annotated[int | None, typer.Option("--limit", help="Only this many prompts, evenly spaced.")] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Seed of the first picture; the next has seed + 1.")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", help="Sampling steps; the model's own by default.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance-scale", "--cfg", help="Guidance scale.")] = None,
    batch: Annotated[int, typer.Option("--batch", help="Pictures drawn together; does not change them.")] = 8,
    save: Annotated[
        Path | None, typer.Option("--save", help="New or empty folder for the pictures and a contact sheet.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Draw everyday prompts and print how many of the pictures the judge recognises, top-1 among all concepts."""
    import frolic
    from frolic.eval import starter as run
    from frolic.eval.judge import Judge

    cases = run.suite(suite, limit)
    if save is not None:
        _check_empty(save)
    judge = Judge.load()
    draw = run.drawer(frolic.load(model), steps=steps, guidance_scale=guidance)
    started = time.monotonic()
    rows: list[Row] = []
    pictures: list[Tensor] = []
    for row, picture in run.evaluate(draw, judge, cases, seed, batch):
        rows.append(row)
        if save is not None:
            pictures.append(picture)
        typer.echo(run.as_json(row) if as_json else _told(row))
    summary = run.summarise(suite, rows, judge, seed, started)
    if save is not None:
        _save(save, rows, pictures, summary)
    typer.echo(run.as_json(summary) if as_json else _summed_up(summary))


def train_judge(
    data: Annotated[Path | None, typer.Option("--data", help="Folder made by `frolic data starter`.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for judge.safetensors and judge.json.")] = Path("judge"),
    steps: Annotated[
        int | None, typer.Option("--steps", help="Training steps; the shipped judge's by default.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Seed of the weights and of the renderings.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a judge that is already there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the judge on real renders only and measure it on held-out renderings (minutes on one core)."""
    from frolic.data.starter.pack import default_folder
    from frolic.eval import train_judge as training

    recipe = training.JudgeTraining(seed=seed) if steps is None else training.JudgeTraining(seed=seed, steps=steps)

    def tell(progress: training.Progress) -> None:
        if progress.step % 50 == 0 or progress.step == progress.steps:
            line = {"step": progress.step, "steps": progress.steps, "loss": round(progress.loss, 4)}
            typer.echo(
                json.dumps(line) if as_json else f"step {progress.step}/{progress.steps}  loss {progress.loss:.3f}"
            )

    facts = training.train_judge(data or default_folder(), out, recipe, tell, force)
    held_out = facts["held_out"]
    typer.echo(
        json.dumps({"out": str(out), "parameters": facts["parameters"], **held_out})
        if as_json
        else f"held-out top-1 {held_out['accuracy']:.1%} of {held_out['renderings']} renderings; written to {out}"
    )


def _told(row: Row) -> str:
    return f"{'yes' if row.correct else 'no ':3}  {row.prompt:28}  seen: {row.seen_name} ({row.probability:.0%})"


def _summed_up(summary: Summary) -> str:
    return (
        f"{summary.suite}: {summary.accuracy:.1%} recognised ({summary.correct} of {summary.n}), "
        f"top-1 among {summary.concepts} concepts; {summary.top5:.1%} among the five best"
    )


def _check_empty(folder: Path) -> None:
    """Nothing is overwritten, and a folder that cannot be made is refused before a picture is drawn."""
    from frolic.errors import FileError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(folder.iterdir())
    except OSError as error:
        raise FileError(f"Choose another folder with --save: {folder} cannot be written ({error.strerror}).") from error
    if taken:
        raise FileError(f"Choose another folder with --save: {folder} is not empty.")


def _save(folder: Path, rows: list[Row], pictures: list[Tensor], summary: Summary) -> None:
    """One PNG a row, ``sheet.png`` with all of them, ``results.jsonl`` with rows and summary."""
    import re

    from frolic.errors import FileError
    from frolic.eval.sheet import contact_sheet
    from frolic.eval.starter import as_json
    from frolic.pipeline.result import to_image

    images = [to_image(picture) for picture in pictures]
    try:
        for index, (row, image) in enumerate(zip(rows, images, strict=True)):
            image.save(folder / f"{index:03d}-{re.sub(r'[^a-z0-9]+', '-', row.prompt)}.png")
        contact_sheet(images, [row.prompt for row in rows]).save(folder / "sheet.png")
        lines = [*map(as_json, rows), as_json(summary)]
        (folder / "results.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    except OSError as error:
        raise FileError(
            f"Free some space or choose another --save: {folder} is not writable ({error.strerror})."
        ) from error
