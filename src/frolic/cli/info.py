"""``frolic info``: what made a picture or a video, or what is in a model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frolic.errors import FileError
from frolic.io.media import CARRIERS

if TYPE_CHECKING:
    from frolic.io.safetensors import Entry


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(info)


def info(
    target: Annotated[
        str, typer.Argument(help="A picture or video, a model's name or folder, or a .safetensors file.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what made a picture or a video, or what a model holds."""
    path = Path(target)
    if path.suffix.lower() in CARRIERS:
        facts = _picture(path)
    elif path.suffix == ".safetensors":
        facts = _weights(path)
    elif path.is_file() and not _is_pickle(path):
        kinds = ", ".join(sorted(CARRIERS))
        raise FileError(f"{path} is no file that says what made it ({kinds}) or holds a model (.safetensors).")
    else:
        facts = _model(target)
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        typer.echo("\n".join(_lines(facts)))


def _is_pickle(path: Path) -> bool:
    """Those are refused with the reason."""
    from frolic.io.safetensors import PICKLES

    return path.suffix.lower() in PICKLES


def _picture(path: Path) -> dict[str, Any]:
    from frolic.io.media import read_record, read_texts

    texts = read_texts(path)
    if "frolic" in texts:
        return read_record(path)
    if texts.get("parameters"):
        return {"parameters": texts["parameters"]}
    raise FileError(f"{path} does not say how it was made; give a file that frolic wrote without --no-metadata.")


def _model(target: str) -> dict[str, Any]:
    from frolic.io.safetensors import fingerprint
    from frolic.plan import Watch, make_plan

    plan = make_plan(target, device="cpu", watch=Watch(fetch=False))
    defaults = plan.defaults
    return {
        "name": plan.name,
        "version": plan.version,
        "family": plan.family.name,
        "published": plan.published.name if plan.published else "",
        "size": f"{defaults.width}x{defaults.height}",
        "steps": defaults.steps,
        "guidance_scale": defaults.guidance_scale,
        "sampler": defaults.sampler,
        "shift": defaults.shift,
        "max_tokens": defaults.max_tokens,
        "components": {name: _summary(part.entries) for name, part in plan.parts.items()},
        "hash": fingerprint(plan.files),
    }


def _weights(path: Path) -> dict[str, Any]:
    from frolic.io.safetensors import fingerprint, read_header

    header = read_header(path)
    return {**_summary(dict(header.entries)), "metadata": dict(header.metadata), "hash": fingerprint([path])}


def _summary(entries: Any) -> dict[str, Any]:
    """Counts over a part's tensors."""
    from math import prod

    values: list[Entry] = list(entries.values())
    kinds = Counter(str(entry.dtype).removeprefix("torch.") for entry in values)
    return {
        "tensors": len(values),
        "parameters": sum(prod(entry.shape) for entry in values),
        "dtype": ", ".join(name for name, _ in kinds.most_common()),
        "bytes": sum(entry.end - entry.start for entry in values),
    }


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """``facts`` for people: nested keys indented, counts grouped, empty values left out."""
    lines = []
    for key, value in facts.items():
        # A file from elsewhere must not steer the terminal.
        name = f"{indent}{_quoted(str(key)).replace('_', ' ')}"
        if isinstance(value, dict):
            lines += [f"{name}:", *_lines(value, indent + "  ")] if value else []
        elif key in ("parameters", "tensors", "bytes") and isinstance(value, int):
            lines.append(f"{name}: {value:,}")
        elif value != "":
            lines.append(f"{name}: {_quoted(value)}")
    return lines


def _quoted(value: Any) -> Any:
    return value if str(value).isprintable() else json.dumps(value)
