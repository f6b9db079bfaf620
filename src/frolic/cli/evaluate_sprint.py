"""``frolic eval starter-sprint``: what fewer steps cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from frolic.cli.evaluate_options import BatchOption, DataOption, JsonFlag, SeedOption

_SHOWN = 8


def starter_sprint(
    model: Annotated[str, typer.Option("--model", "-m", help="Model that draws in 1 to 4 steps.")] = "starter-sprint",
    against: Annotated[str, typer.Option("--against", help="The one that it was made from.")] = "starter",
    suite: Annotated[str, typer.Option("--suite", help="As of `frolic eval starter`.")] = "single",
    limit: Annotated[int | None, typer.Option("--limit", help="Only this many prompts, evenly spaced.")] = None,
    pictures: Annotated[
        int, typer.Option("--pictures", help="How many the FID is taken over (needs `frolic data starter`); 0 is none.")
    ] = 0,
    seed: SeedOption = 0,
    batch: BatchOption = 8,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="PNG or WebP to write: eight prompts in all steps, 1 and 2.")
    ] = None,
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file to write with the figures.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of --out and --sheet.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Draw a suite's prompts in 1, 2 and 4 steps, and with the whole model; print how many are right, as a table."""
    import frolic
    from frolic.errors import RequestError
    from frolic.eval import measure, suites
    from frolic.eval.few import compare, markdown, side_by_side
    from frolic.eval.judge import Judge
    from frolic.eval.sheet import check_sheet, contact_sheet, save_sheet
    from frolic.io.files import check_writable, write_json
    from frolic.request import FEW

    if out is not None:
        check_writable(out, force=force)
    if sheet is not None:
        check_sheet(sheet, force=force)
    judge = Judge.load()
    cases = suites.suite(suite, judge.concepts, limit)
    true = measure.Truth(data, pictures) if pictures else None
    few, whole = frolic.load(model), frolic.load(against)
    for pipe, name, wanted in ((few, model, True), (whole, against, False)):
        if (pipe.defaults.sampler == FEW) is not wanted:
            what = "does not draw in 1 to 4 steps" if wanted else "is itself one of few steps"
            raise RequestError(f"{name} {what}; name a Sprint model with --model, and a whole one with --against.")
    rows = []
    for row in compare(few, whole, judge, cases, seed, batch, true):
        rows.append(row)
        if as_json:
            typer.echo(json.dumps(asdict(row)))
        elif len(rows) == 1:
            typer.echo(markdown(rows))
        else:
            typer.echo(markdown(rows).splitlines()[-1])
    own = next((row for row in rows[1:] if row.steps == few.defaults.steps), rows[-1])
    summary = {
        "suite": suite,
        "accuracy": own.accuracy,
        "n": own.n,
        "steps": own.steps,
        "seed": seed,
        "rows": [asdict(row) for row in rows],
        "weights": {model: few.card.hash, against: whole.card.hash},
    }
    if as_json:
        typer.echo(json.dumps(summary))
    if out is not None:
        write_json(out, summary, force=force)
    if sheet is not None:
        shown = [case.prompt for case in measure.cases_of_all(judge.concepts, _SHOWN)]
        save_sheet(contact_sheet(*side_by_side(few, whole, shown, seed)), sheet, force=force)
