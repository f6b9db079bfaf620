"""``frolic eval starter-video``: what is in a video model's clips, and what it does."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frolic.cli.evaluate import BatchOption, GuidanceOption, JsonFlag, SeedOption, StepsOption

if TYPE_CHECKING:
    import numpy as np


def starter_video(
    model: Annotated[str, typer.Option("--model", "-m", help="Name or folder of the model to measure.")],
    suite: Annotated[str, typer.Option("--suite", help="motion, everyday, still, or all.")] = "everyday",
    limit: Annotated[int | None, typer.Option("--limit", help="Only this many prompts a suite, evenly spaced.")] = None,
    seed: SeedOption = 0,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    batch: BatchOption = 4,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="PNG to write: a strip of frames of each clip.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --sheet.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Draw clips of held-out prompts; print in how many the right thing does what was asked."""
    import frolic
    from frolic.eval import video
    from frolic.eval.judge import Judge
    from frolic.io.files import check_writable

    if sheet is not None:
        check_writable(sheet, force=force)
    judge = Judge.load()
    names = video.SUITES if suite == "all" else (suite,)
    chosen = {name: video.suite(name, judge.concepts, limit) for name in names}
    film = video.filmer(frolic.load(model), steps=steps, guidance_scale=guidance)
    clips, labels = [], []
    for name, cases in chosen.items():
        started, rows = time.monotonic(), []
        for row, frames in video.evaluate(film, judge, cases, seed, batch):
            rows.append(row)
            if sheet is not None:
                clips.append(frames)
                labels.append(row.prompt)
            told = f"{'yes' if row.correct else 'no ':3}  {row.prompt:44}  seen: {row.seen_name}, {row.found}"
            typer.echo(json.dumps(asdict(row), ensure_ascii=False) if as_json else told)
        whole = video.summarise(name, rows, seed, started)
        if as_json:
            typer.echo(json.dumps(asdict(whole)))
        else:
            parts = ", ".join(f"{part} {share:.1%}" for part, share in whole.parts.items())
            typer.echo(f"{name}: {whole.accuracy:.1%} of {whole.n} right; {parts}; {whole.static} static")
    if sheet is not None:
        _write_sheet(clips, labels, sheet, force)
        if not as_json:
            typer.echo(f"{sheet}: {len(clips)} clips, in the order of the suite")


def _write_sheet(clips: list[np.ndarray], labels: list[str], path: Path, force: bool) -> None:
    import io

    from PIL import Image, ImageDraw, ImageFont

    from frolic.eval.video import filmstrips
    from frolic.io.files import write_bytes

    strips = [Image.fromarray(strip) for strip in filmstrips(clips)]
    columns, line, gap = 2, 15, 8
    wide, high = max(strip.width for strip in strips), max(strip.height for strip in strips)
    rows = -(-len(strips) // columns)
    paper = Image.new("RGB", (columns * (wide + gap) + gap, rows * (high + line + gap) + gap), "white")
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(12)
    for index, (strip, label) in enumerate(zip(strips, labels, strict=True)):
        left, top = gap + index % columns * (wide + gap), gap + index // columns * (high + line + gap)
        paper.paste(strip, (left, top))
        pen.text((left, top + high + 1), label, fill=(60, 60, 67), font=font)
    buffer = io.BytesIO()
    paper.save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue(), force=force)
