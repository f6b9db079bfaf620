"""``frolic eval``: how good a model's pictures are, measured by an independent judge."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frolic.cli.evaluate_file import add, check_same, replace
from frolic.cli.evaluate_options import (
    AddOption,
    BatchOption,
    DataOption,
    GuidanceOption,
    JsonFlag,
    LoraOption,
    ModelOption,
    SeedOption,
    StepsOption,
)

if TYPE_CHECKING:
    from torch import Tensor

    from frolic.eval.starter import Overall, Row, Summary


def register(app: typer.Typer) -> None:
    """Add the ``eval`` commands."""
    from frolic.cli.evaluate_sprint import starter_sprint
    from frolic.cli.evaluate_video import starter_video

    evaluate = typer.Typer(no_args_is_help=True, help="Measure the quality of a model's pictures.")
    for name, command in (
        ("starter", starter),
        ("starter-sprint", starter_sprint),
        ("starter-video", starter_video),
        ("fid", fid),
        ("reconstruction", reconstruction),
        ("sheet", sheet),
        ("table", table),
        ("train-judge", train_judge),
    ):
        evaluate.command(name)(command)
    app.add_typer(evaluate, name="eval")


def starter(
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            help="single-everyday, single, two, count, colour, position, style, synonym, background, or all.",
        ),
    ] = "single-everyday",
    model: ModelOption = "starter",
    limit: Annotated[int | None, typer.Option("--limit", help="Only this many prompts a suite, evenly spaced.")] = None,
    seed: SeedOption = 0,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    lora: LoraOption = None,
    batch: BatchOption = 8,
    save: Annotated[
        Path | None, typer.Option("--save", help="New or empty folder for the pictures and a contact sheet.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File for all figures: what `frolic eval table` reads.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Draw a suite's prompts and print how many of the pictures the judge accepts."""
    import frolic
    from frolic.eval import starter as run
    from frolic.eval import suites
    from frolic.eval.judge import Judge
    from frolic.io.files import check_writable
    from frolic.strength import strengths

    judge = Judge.load()
    chosen = {name: suites.suite(name, judge.concepts, limit) for name in run.names(suite)}
    if save is not None:
        _check_empty(save)
    if out is not None:
        check_writable(out, force=force)
    pipe = frolic.load(model, loras=strengths(lora or ()))
    draw = run.drawer(pipe, steps=steps, guidance_scale=guidance)
    rows: list[Row] = []
    pictures: list[Tensor] = []
    summaries: list[Summary] = []
    for name, cases in chosen.items():
        started, first = time.monotonic(), len(rows)
        for row, picture in run.evaluate(draw, judge, cases, seed, batch):
            rows.append(row)
            if save is not None:
                pictures.append(picture)
            typer.echo(run.as_json(row) if as_json else _told(row))
        summaries.append(run.summarise(name, rows[first:], judge, seed, started))
        typer.echo(run.as_json(summaries[-1]) if as_json else _summed_up(summaries[-1]))
    whole = run.overall(summaries)
    if suite == run.ALL:
        typer.echo(run.as_json(whole) if as_json else f"mean of the suites: {whole.accuracy:.1%}")
    if save is not None:
        _save(save, rows, pictures, [*summaries, *([whole] if suite == run.ALL else [])])
    if out is not None:
        settings = _settings(pipe, model, steps, guidance, limit) | ({"loras": lora} if lora else {})
        replace(out, asdict(whole) | {"settings": settings, "judge": _judge_facts(judge)})


def fid(
    model: ModelOption = "starter",
    pictures: Annotated[int, typer.Option("--pictures", help="How many; figures compare at the same number.")] = 512,
    seed: SeedOption = 0,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    batch: BatchOption = 8,
    data: DataOption = None,
    out: AddOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Draw prompts of all suites and print how far the pictures are from true ones in a photo network's features."""
    import frolic
    from frolic.eval import measure
    from frolic.eval.starter import drawer

    true = measure.Truth(data, pictures)
    pipe = frolic.load(model)
    check_same(out, pipe)
    draw = drawer(pipe, steps=steps, guidance_scale=guidance)
    found = asdict(measure.distance(draw, true, seed, batch))
    said = f"FID {found['fid']} over {found['n']} pictures (other true pictures of the same prompts: {found['floor']})"
    typer.echo(json.dumps(found) if as_json else said)
    if out is not None:
        settings = _settings(pipe, model, steps, guidance, None)
        asked = {name: settings[name] for name in ("steps", "guidance_scale")}
        add(out, "fid", found | {"seed": seed} | asked, pipe)


def reconstruction(
    model: ModelOption = "starter",
    pictures: Annotated[int, typer.Option("--pictures", help="How many true pictures are rebuilt.")] = 256,
    side: Annotated[int, typer.Option("--side", help="Their side in pixels.")] = 256,
    perceptual: Annotated[bool, typer.Option("--lpips/--no-lpips", help="Measure LPIPS too (fetches it once).")] = True,
    data: DataOption = None,
    out: AddOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Rebuild true pictures of one and of several things with the autoencoder and print PSNR and LPIPS."""
    import frolic
    from frolic.eval import measure
    from frolic.io.home import home
    from frolic.train.perceptual import load_lpips

    true = measure.Truth(data, pictures)
    lpips = load_lpips(home() / "lpips-vgg16.safetensors") if perceptual else None
    pipe = frolic.load(model)
    check_same(out, pipe)
    found = asdict(measure.reconstruct(pipe, true, side, lpips))
    said = f"PSNR {found['psnr']} dB, LPIPS {found['lpips']} over {found['n']} pictures of {side} x {side}"
    typer.echo(json.dumps(found) if as_json else said)
    if out is not None:
        add(out, "reconstruction", found | {"side": side}, pipe)


def sheet(
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG or WebP to write.")] = Path("sheet.png"),
    model: ModelOption = "starter",
    seed: SeedOption = 0,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    batch: BatchOption = 8,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Draw 64 prompts of all suites, evenly spaced and none picked, as one 8 x 8 contact sheet."""
    import frolic
    from frolic.eval.judge import Judge
    from frolic.eval.measure import cases_of_all
    from frolic.eval.sheet import CELLS, check_sheet, contact_sheet, save_sheet
    from frolic.eval.starter import drawer
    from frolic.pipeline.result import to_image

    check_sheet(out, force=force)
    prompts = [case.prompt for case in cases_of_all(Judge.load().concepts, CELLS)]
    draw = drawer(frolic.load(model), steps=steps, guidance_scale=guidance)
    images = [
        to_image(picture)
        for first in range(0, CELLS, batch)
        for picture in draw(prompts[first : first + batch], seed + first)
    ]
    save_sheet(contact_sheet(images, prompts), out, force=force)
    typer.echo(f"{out}: {len(images)} prompts of all suites, seeds {seed} to {seed + len(images) - 1}")


def table(
    results: Annotated[
        Path | None, typer.Argument(help="What `eval starter --out` wrote; the starter's by default.")
    ] = None,
) -> None:
    """Print the figures of a results file as the model card's table."""
    from importlib import resources

    from frolic.eval.table import markdown
    from frolic.io.files import read_json_object

    shipped = Path(str(resources.files("frolic").joinpath("starter/evaluation.json")))
    typer.echo(markdown(read_json_object(results or shipped)))


def train_judge(
    data: DataOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the judge's files.")] = Path("judge"),
    part: Annotated[
        str,
        typer.Option("--part", help="classifier, finish, style, detector, all, or none to measure what is there only."),
    ] = "all",
    steps: Annotated[
        int | None, typer.Option("--steps", help="Training steps of each net; the shipped judge's by default.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="Stop after so long; the same command goes on.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="True pictures a suite to measure with; all.")] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Seed of the weights and of the renderings.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a judge that is already there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the judge on real renders only and measure it on held-out ones (half an hour on one core)."""
    import dataclasses

    from frolic.data.starter.pack import default_folder
    from frolic.errors import RequestError, nearest
    from frolic.eval import train_judge as training
    from frolic.eval.judge import FILES
    from frolic.eval.training import Progress

    parts = {"all": training.PARTS, "none": ()} | {name: (name,) for name in training.PARTS}
    if part not in parts:
        raise RequestError(f"Choose --part of {', '.join(parts)}: {part!r} is none of them{nearest(part, parts)}.")
    recipes = {
        name: dataclasses.replace(recipe, seed=seed, steps=steps or recipe.steps)
        for name, recipe in training.RECIPES.items()
    }

    def tell(progress: Progress) -> None:
        if progress.step % 50 == 0 or progress.step == progress.steps:
            line = asdict(progress) | {"loss": round(progress.loss, 4)}
            said = f"{progress.part} step {progress.step}/{progress.steps}  loss {progress.loss:.3f}"
            typer.echo(json.dumps(line) if as_json else said)

    where = data or default_folder()
    facts = training.train_judge(where, out, parts[part], recipes, seconds, tell, force, limit)
    if facts is None:
        missing = [name for name in FILES if not (out / name).exists()]
        said = f": {' and '.join(missing)} missing; --part all makes all that is" if missing else ""
        typer.echo(json.dumps({"finished": False}) if as_json else f"not finished{said}; run it again to go on")
        return
    ceilings: dict[str, dict[str, float]] = facts["ceilings"]
    if as_json:
        typer.echo(json.dumps({"out": str(out), "parameters": facts["parameters"], "ceilings": ceilings}))
        return
    for name, figures in ceilings.items():
        typer.echo(f"{name}: {figures['accuracy']:.1%} of {figures['n']} true pictures accepted")


def _told(row: Row) -> str:
    things = ", ".join(f"{thing['colour']} {thing['name']}" for thing in row.things) or "nothing"
    return f"{'yes' if row.correct else 'no ':3}  {row.prompt:40}  seen: {row.seen_name}; in it: {things}; {row.ground}"


def _summed_up(summary: Summary) -> str:
    ceiling = f" (true pictures: {summary.ceiling:.1%})" if summary.ceiling is not None else ""
    parts = ", ".join(f"{name} {share:.1%}" for name, share in summary.parts.items())
    return f"{summary.suite}: {summary.accuracy:.1%} of {summary.n} right{ceiling}; {parts}"


def _settings(pipe: Any, model: str, steps: int | None, guidance: float | None, limit: int | None) -> dict[str, Any]:
    """What the figures depend on besides the seed."""
    return {
        "model": model,
        "weights": pipe.card.hash,
        "steps": steps or pipe.defaults.steps,
        "guidance_scale": pipe.defaults.guidance_scale if guidance is None else guidance,
        "limit": limit,
    }


def _judge_facts(judge: Any) -> dict[str, Any]:
    return {name: judge.facts.get(name) for name in ("ceilings", "colour_by", "colour_accuracy", "parameters")}


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


def _save(folder: Path, rows: list[Row], pictures: list[Tensor], summaries: list[Summary | Overall]) -> None:
    """One PNG a row, ``sheet.png`` with all of them, ``results.jsonl`` with rows and summaries."""
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
        lines = [*map(as_json, rows), *map(as_json, summaries)]
        (folder / "results.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    except OSError as error:
        raise FileError(
            f"Free some space or choose another --save: {folder} is not writable ({error.strerror})."
        ) from error
