"""``frolic lora explore``: one picture for every pair of weights of two adapters, as a labelled grid; or, with rewards,
a search for the weights that they like best (``frolic.cli.lora_search``)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frolic.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

_LABEL, _GAP, _MARGIN = 14, 4, 60
MOST = 400
_COMBINE, _BUDGET, _SEEDS = "sum", 200, 2


def explore(
    adapters: Annotated[
        list[str],
        typer.Argument(metavar="A [B]", help="Of a grid, A's weight grows to the right and B's downwards."),
    ],
    prompt: Annotated[list[str] | None, typer.Option(help="What to draw; several times with --reward.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The PNG to write [grid.png]; with --reward the blend's .safetensors."),
    ] = None,
    steps_grid: Annotated[str | None, typer.Option(help="Columns and rows, as 5x5 [5x5].")] = None,
    low: Annotated[float, typer.Option(help="The smallest weight.")] = 0.0,
    high: Annotated[float, typer.Option(help="The largest weight.")] = 1.0,
    model: Annotated[str, typer.Option("--model", "-m", help="The model to draw with.")] = "starter",
    seed: Annotated[int | None, typer.Option("--seed", "-s", help="The same for all [random, and printed].")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    size: Annotated[str | None, typer.Option(help="Of each picture, as 128x128.")] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            "--reward",
            "-r",
            metavar="SPEC",
            help="Search for the weights that this likes best: NAME[=WEIGHTS][:WEIGHT], python:MODULE:FUNCTION or "
            "http://HOST/PATH; may be given several times.",
        ),
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC:VALUE", help="What a blend must reach: a number, plain, plain-0.02 or plain-5%."),
    ] = None,
    combine: Annotated[str, typer.Option(help="Several rewards as one: sum or min.")] = _COMBINE,
    budget: Annotated[int, typer.Option(help="The most pictures that a search draws.")] = _BUDGET,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="How many seeds of each prompt a search draws.")] = _SEEDS,
    frames: Annotated[int | None, typer.Option(help="Of each clip, with a model that makes them.")] = None,
    prompt_file: Annotated[str | None, typer.Option(help="The prompts of a search, one a line.")] = None,
    best: Annotated[
        Path | None, typer.Option(help="The JSON of the best blend [blend.json, or as -o is called].")
    ] = None,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="Use as much of them as fits.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Draw one prompt and one seed under a grid of weights, or search for the weights that rewards like best."""
    if not low < high:
        raise RequestError(f"--low {low:g} is not below --high {high:g}.")
    sides = (None, None) if size is None else _two(size, "--size", "128x128")
    if reward:
        from frolic.cli.generate import read_prompts
        from frolic.cli.lora_search import Search

        if steps_grid is not None:
            raise RequestError("--steps-grid is of a grid; with --reward the search chooses its own, within --budget.")
        if prompt and prompt_file is not None:
            raise RequestError("Give --prompt or --prompt-file, not both.")
        prompts = tuple(prompt or ()) or read_prompts(None, prompt_file)
        request = {"steps": steps, "width": sides[0], "height": sides[1], "frames": frames}
        places = output, best or (Path("blend.json") if output is None else output.with_suffix(".json"))
        asked = Search(adapters, prompts, reward, floor or [], combine, low, high, budget, seeds, seed, request)
        asked.run(model, *places, allow_partial=allow_partial, force=force, as_json=as_json)
        return
    searching = {"--floor": floor, "--best": best, "--frames": frames, "--prompt-file": prompt_file}
    searching |= {"--combine": combine != _COMBINE, "--budget": budget != _BUDGET, "--seeds": seeds != _SEEDS}
    if given := [name for name, value in searching.items() if value not in (None, False, [])]:
        raise RequestError(f"{', '.join(given)}: of a search; say what for, with --reward, or leave it out.")
    if output is not None and output.suffix == ".safetensors":
        raise RequestError("A grid is a picture; call it .png, or ask for a blend with --reward.")
    if len(adapters) > 2:
        raise RequestError(f"A grid has two directions, and these are {len(adapters)} adapters; give two, or --reward.")
    first, second = (*adapters, None)[:2]
    columns, rows = _two(steps_grid or "5x5", "--steps-grid", "5x5")
    if second is None:
        rows = 1
    if columns * rows > MOST:
        raise RequestError(f"--steps-grid {steps_grid} is {columns * rows} pictures; ask for at most {MOST}.")
    if not prompt or not prompt[0]:
        raise RequestError('There is no prompt; say what to draw, as in --prompt "a cat".')
    if len(prompt) > 1:
        raise RequestError(f"A grid is of one prompt, and these are {len(prompt)}; give one.")
    assert first is not None
    sheet = Sheet(first, second, prompt[0], _weights(columns, low, high), _weights(rows, low, high))
    fields = {"steps": steps, "width": sides[0], "height": sides[1]}
    sheet.draw(output or Path("grid.png"), model, seed, fields, allow_partial, force, as_json)


@dataclass(frozen=True)
class Sheet:
    """A grid: ``first`` at the weights ``across``, ``second`` at those ``down``."""

    first: str
    second: str | None
    prompt: str
    across: list[float]
    down: list[float]

    def draw(
        self,
        output: Path,
        model: str,
        seed: int | None,
        fields: dict[str, Any],
        allow_partial: bool,
        force: bool,
        as_json: bool,
    ) -> None:
        """Write the grid at ``output``, and say so."""
        from frolic.assemble import load
        from frolic.cli.lora import safe
        from frolic.io.files import check_writable
        from frolic.io.media import save_png
        from frolic.request import Request
        from frolic.strength import Strength

        check_writable(output, force=force)
        blends: list[dict[str, Any]] = [
            {self.first: Strength(a), **({} if self.second is None else {self.second: Strength(b)})}
            for b in self.down
            for a in self.across
        ]
        asked = Request.of(self.prompt, seed=seed).seeded()
        pipeline = load(model, allow_partial=allow_partial)
        if pipeline.makes_clips:
            fields = {**fields, "frames": 1}  # a sheet holds pictures
        # All in one request: pictures of different blends share their batches.
        seeds = [asked.seeds[0]] * len(blends)
        result = pipeline([self.prompt] * len(blends), seed=seeds, loras=blends, **fields)
        for note in result.notes:
            typer.echo(safe(note), err=True)
        names = (_name(self.first), None if self.second is None else _name(self.second))
        save_png(grid(list(result.images), names, self.across, self.down), output, force=force)
        facts = {"event": "written", "path": str(output), "seed": seeds[0], "across": self.across, "down": self.down}
        shape = f"{len(self.across)}x{len(self.down)}"
        typer.echo(json.dumps(facts) if as_json else f"{output}  seed {seeds[0]}, {shape} pictures")


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
