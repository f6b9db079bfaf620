"""``frolic lora explore``: one picture for every pair of weights of two adapters, as a labelled grid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frolic.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

_LABEL, _GAP, _MARGIN = 14, 4, 60
MOST = 400


def explore(
    first: Annotated[str, typer.Argument(metavar="A", help="The adapter whose weight grows to the right.")],
    second: Annotated[str | None, typer.Argument(metavar="[B]", help="The one whose weight grows downwards.")] = None,
    prompt: Annotated[str, typer.Option(help="What to draw.")] = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")] = Path("grid.png"),
    steps_grid: Annotated[str, typer.Option(help="Columns and rows, as 5x5.")] = "5x5",
    low: Annotated[float, typer.Option(help="The smallest weight.")] = 0.0,
    high: Annotated[float, typer.Option(help="The largest weight.")] = 1.0,
    model: Annotated[str, typer.Option("--model", "-m", help="The model to draw with.")] = "starter",
    seed: Annotated[int | None, typer.Option("--seed", "-s", help="The same for all [random, and printed].")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    size: Annotated[str | None, typer.Option(help="Of each picture, as 128x128.")] = None,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="Use as much of them as fits.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Draw one prompt and one seed under a grid of weights, and write it as one labelled picture."""
    columns, rows = _two(steps_grid, "--steps-grid", "5x5")
    if second is None:
        rows = 1
    if columns * rows > MOST:
        raise RequestError(f"--steps-grid {steps_grid} is {columns * rows} pictures; ask for at most {MOST}.")
    if not prompt:
        raise RequestError('There is no prompt; say what to draw, as in --prompt "a cat".')
    if not low < high:
        raise RequestError(f"--low {low:g} is not below --high {high:g}.")
    width, height = (None, None) if size is None else _two(size, "--size", "128x128")
    from frolic.assemble import load
    from frolic.cli.lora import safe
    from frolic.io.files import check_writable
    from frolic.io.media import save_png
    from frolic.request import Request
    from frolic.strength import Strength

    check_writable(output, force=force)
    across, down = _weights(columns, low, high), _weights(rows, low, high)
    blends: list[dict[str, Any]] = [
        {first: Strength(a), **({} if second is None else {second: Strength(b)})} for b in down for a in across
    ]
    asked = Request.of(prompt, seed=seed).seeded()
    pipeline = load(model, allow_partial=allow_partial)
    # All in one request: pictures of different blends share their batches.
    result = pipeline(
        [prompt] * len(blends),
        seed=[asked.seeds[0]] * len(blends),
        loras=blends,
        steps=steps,
        width=width,
        height=height,
    )
    for note in result.notes:
        typer.echo(safe(note), err=True)
    names = (_name(first), None if second is None else _name(second))
    sheet = grid(list(result.images), names, across, down)
    save_png(sheet, output, force=force)
    facts = {"event": "written", "path": str(output), "seed": asked.seeds[0], "across": across, "down": down}
    typer.echo(json.dumps(facts) if as_json else f"{output}  seed {asked.seeds[0]}, {columns}x{rows} pictures")


def grid(pictures: list[Image], names: tuple[str, str | None], across: list[float], down: list[float]) -> Image:
    """``pictures`` row by row, with the weights written above and beside them."""
    from PIL import Image as images
    from PIL import ImageDraw

    wide, high = pictures[0].size
    top, left = 2 * (_LABEL + _GAP), 0 if names[1] is None else _MARGIN
    size = (left + len(across) * (wide + _GAP), top + len(down) * (high + _GAP))
    sheet = images.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((left + _GAP, _GAP), f"{names[0]}, to the right", fill="black")
    for column, weight in enumerate(across):
        pen.text((left + column * (wide + _GAP) + wide // 2 - 8, _LABEL + _GAP), f"{weight:g}", fill="black")
    for row, weight in enumerate(down):
        y = top + row * (high + _GAP)
        if names[1] is not None:
            pen.text((_GAP, y), names[1][:9], fill="black")
            pen.text((_GAP, y + _LABEL), f"{weight:g}", fill="black")
        for column in range(len(across)):
            sheet.paste(pictures[row * len(across) + column], (left + column * (wide + _GAP), y))
    return sheet


def _weights(count: int, low: float, high: float) -> list[float]:
    if count == 1:
        return [high]
    return [round(low + (high - low) * place / (count - 1), 3) for place in range(count)]


def _two(text: str, option: str, example: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text.strip())
    if match is None or not (int(match[1]) and int(match[2])):
        raise RequestError(f"{option} {text!r} is not two numbers; write it as {example}.")
    return int(match[1]), int(match[2])


def _name(source: str) -> str:
    return Path(source).name.removesuffix(".safetensors")
