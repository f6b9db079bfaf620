"""``frolic eval starter-video``: what is in a video model's clips, and what it does."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frolic.cli.evaluate_options import (
    BatchOption,
    DataOption,
    GuidanceOption,
    JsonFlag,
    LoraOption,
    SeedOption,
    StepsOption,
)

if TYPE_CHECKING:
    import numpy as np

    from frolic.eval.video import Film, Moving, Row, Summary


def starter_video(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Name or folder of the model to measure.")] = None,
    suite: Annotated[str, typer.Option("--suite", help="everyday, motion, object, emoji, still, or all.")] = "everyday",
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many prompts a suite.")] = None,
    seed: SeedOption = 0,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    lora: LoraOption = None,
    batch: BatchOption = 4,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="PNG or WebP to write: a strip of frames of each clip.")
    ] = None,
    true: Annotated[
        bool,
        typer.Option(
            "--true",
            help="Judge true clips: the ceiling of each figure. With --model, clips as it is taught, after its "
            "autoencoder: the ceiling for that.",
        ),
    ] = False,
    data: DataOption = None,
    animated: Annotated[
        Path | None, typer.Option("--animated", help="File made by `frolic data starter-video`, for --true.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file to write with the figures, by suite.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of --sheet and --out.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Draw clips of held-out prompts; print in how many the right thing does what was asked."""
    import frolic
    from frolic.errors import RequestError
    from frolic.eval import video
    from frolic.eval.judge import Judge
    from frolic.eval.sheet import check_sheet
    from frolic.io.files import check_writable, write_json
    from frolic.strength import strengths

    if model is None and not true:
        raise RequestError("Give --model, or --true for clips that are as they should be.")
    if true and (steps, guidance, lora or None) != (None, None, None):
        raise RequestError("True clips are not drawn: leave out --steps, --guidance-scale and --lora.")
    if sheet is not None:
        check_sheet(sheet, force=force)
    if out is not None:
        check_writable(out, force=force)
    judge = Judge.load()
    chosen = {name: video.suite(name, judge.concepts, limit) for name in video.names(suite)}
    if true:
        film = _true([case for cases in chosen.values() for case in cases], data, animated, model)
    else:
        pipe = frolic.load(str(model), loras=strengths(lora or ()))
        film = video.filmer(pipe, steps=steps, guidance_scale=guidance)
    clips: list[np.ndarray] = []
    labels: list[str] = []
    summaries: list[Summary] = []
    for name, cases in chosen.items():
        started, rows = time.monotonic(), []
        for row, frames in video.evaluate(film, judge, cases, seed, batch):
            rows.append(row)
            if sheet is not None:
                clips.append(frames)
                labels.append(row.prompt)
            typer.echo(json.dumps(asdict(row), ensure_ascii=False) if as_json else _told(row))
        summaries.append(video.summarise(name, rows, seed, started))
        typer.echo(json.dumps(asdict(summaries[-1])) if as_json else _summed_up(summaries[-1]))
    if out is not None:
        write_json(out, {summary.suite: _figures(summary) for summary in summaries}, force=force)
    if sheet is not None:
        _write_sheet(clips, labels, sheet, force)
        if not as_json:
            typer.echo(f"{sheet}: {len(clips)} clips, in the order of the suite")


def _true(cases: list[Moving], data: Path | None, animated_file: Path | None, model: str | None) -> Film:
    import frolic
    from frolic.data.starter import animated
    from frolic.data.starter.pack import default_folder, read
    from frolic.eval import films, through
    from frolic.eval.video import LIVELY

    rgba, concepts = read((data or default_folder()).expanduser())
    loops = animated.read(animated_file) if any(case.move == LIVELY for case in cases) else None
    rows = {concept.code: concept.row for concept in concepts}
    if model is None:
        return films.filmer(rgba, rows, cases, loops)
    return through.filmer(frolic.load(model), rgba, rows, cases, loops)


def _told(row: Row) -> str:
    return f"{'yes' if row.correct else 'no ':3}  {row.prompt:44}  seen: {row.seen_name}, {row.found}"


def _summed_up(summary: Summary) -> str:
    parts = ", ".join(f"{part} {share:.1%}" for part, share in summary.parts.items())
    ceiling = f" (true clips: {summary.ceiling:.1%})" if summary.ceiling is not None else ""
    return f"{summary.suite}: {summary.accuracy:.1%} of {summary.n} right{ceiling}; {parts}; {summary.static} static"


def _figures(summary: Summary) -> dict[str, object]:
    """What of a summary is the same on any machine."""
    kept = ("accuracy", "n", "parts", "moves", "static", "seed")
    return {name: value for name, value in asdict(summary).items() if name in kept}


def _write_sheet(clips: list[np.ndarray], labels: list[str], path: Path, force: bool) -> None:
    from frolic.eval.sheet import save_sheet, strip_sheet
    from frolic.eval.video import filmstrips

    save_sheet(strip_sheet(filmstrips(clips), labels), path, force=force)
