"""``frolic convert IN OUT``: the same weights in another naming or dtype."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated

import typer

from frolic.errors import RequestError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("convert")(convert)


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A model's folder, .safetensors, shard index or .pth.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The folder or file to write.")],
    to: Annotated[str, typer.Option(help="diffusers (a folder), original or comfy (one .safetensors).")] = "diffusers",
    base: Annotated[
        str | None, typer.Option(help="A model that gives the other parts, and what a file leaves open.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default as they are.")] = None,
    shard_size: Annotated[str | None, typer.Option(help="Largest file of a diffusers folder, as 5GB.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rewrite a model in another layout: diffusers', its authors', or ComfyUI's."""
    shard_bytes = None if shard_size is None else parse_size(shard_size)
    from frolic.cli.downloads import shown
    from frolic.convert import convert as run
    from frolic.plan import Watch

    with shown(as_json) as (notify, progress):
        watch = Watch(notify, progress)
        done = run(source, target, to, base=base, dtype=dtype, shard_bytes=shard_bytes, force=force, watch=watch)
    if as_json:
        facts = {
            "event": "converted",
            "path": str(done.path),
            "part": done.part,
            "from": done.source,
            "to": done.to,
            "tensors": done.tensors,
            "bytes": done.bytes,
            "left_out": list(done.left_out),
            "assumed": list(done.assumed),
        }
        typer.echo(json.dumps(facts))
        return
    for text in done.assumed:
        typer.echo(text, err=True)
    if done.left_out:
        typer.echo(f"Left out, because nothing reads it: {', '.join(sorted(done.left_out)[:8])}.", err=True)
    typer.echo(f"{done.path}  {done.part} with {done.tensors:,} tensors, {done.bytes:,} bytes, from {done.source}")


def parse_size(text: str) -> int:
    """``5GB``, ``500MB``, ``2GiB`` or a number of bytes, as bytes.

    Raises:
        RequestError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B)?", text.strip().upper())
    size = float(match[1]) * _UNITS[match[2] or ""] if match else 0.0
    if not 1 <= size < math.inf:
        raise RequestError(f"A size of {text!r} is not known; give something like 5GB or 500MB.")
    return int(size)
