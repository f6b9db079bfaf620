"""``frolic lora merge``: a model with adapters merged into it, as a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from frolic.errors import RequestError


def merge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or folder.")],
    sources: Annotated[list[str], typer.Argument(metavar="SRC[:WEIGHT]...", help="Adapters with their weights.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default as they are.")] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Pass over what is of no layer of the model.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a model with adapters merged into its transformer, for a blend that is fixed."""
    from frolic.cli.downloads import shown
    from frolic.cli.lora import DTYPES, choose, safe
    from frolic.convert.merged import merge as run
    from frolic.plan import Watch
    from frolic.strength import parse

    if dtype is not None:
        choose("dtype", dtype, DTYPES)
    adapters = []
    for text in sources:
        source, strength = parse(text)
        if strength is not None and not strength.plain:
            raise RequestError(f"A merged model has one weight for all steps and blocks; give {text!r} one weight.")
        adapters.append((source, 1.0 if strength is None else strength.weight))
    with shown(as_json) as (notify, progress):
        watch = Watch(notify, progress)
        done = run(model, adapters, output, dtype=dtype, allow_partial=allow_partial, force=force, watch=watch)
    if as_json:
        facts = {
            "event": "merged",
            "path": str(done.path),
            "adapters": list(done.names),
            "layers": done.layers,
            "bytes": done.bytes,
            "left_out": dict(done.left_out),
        }
        typer.echo(json.dumps(facts))
    else:
        for name, left in done.left_out.items():
            some = safe(", ".join(left[:3])) + (" ..." if len(left) > 3 else "")
            typer.echo(f"{len(left)} tensors of {safe(name)} are of no use here and were passed over: {some}", err=True)
        typer.echo(f"{done.path}  {', '.join(done.names)} merged into {done.layers} layers, {done.bytes:,} bytes")
