"""Options that the ``eval`` commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON lines; the last one is the summary.")]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="Alias or folder of the model to measure.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder made by `frolic data starter`.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Sampling steps; the model's own by default.")]
GuidanceOption = Annotated[float | None, typer.Option("--guidance-scale", "--cfg", help="Guidance scale.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Pictures drawn together; does not change them.")]
AddOption = Annotated[Path | None, typer.Option("--out", help="File of `eval starter --out` to add the figure to.")]
LoraOption = Annotated[
    list[str] | None, typer.Option("--lora", metavar="SRC[:WEIGHT]", help="As of `frolic generate`; may be repeated.")
]
SeedOption = Annotated[int, typer.Option("--seed", "-s", help="Seed of the first picture; the next has seed + 1.")]
