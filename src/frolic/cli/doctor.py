"""``frolic doctor``: is this machine fit to draw, and does it?"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from frolic import __version__
from frolic.errors import FrolicError, ResourceError, is_out_of_memory
from frolic.io.home import home

_PACKAGES = ("torch", "numpy", "pillow", "av", "tokenizers", "safetensors", "einops", "pydantic", "typer", "rich")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Report versions, devices, threads, disk and caches, and draw one small picture as a check."""
    facts = examine()
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        for group, values in facts.items():
            typer.echo(f"{group}:")
            for key, value in values.items():
                typer.echo(f"  {key}: {value}")
    if not facts["picture"]["drawn"]:
        raise typer.Exit(int(facts["picture"]["code"]))


def examine() -> dict[str, dict[str, Any]]:
    """Everything ``doctor`` prints."""
    import torch

    cache = home()
    devices = {"cpu": platform.processor() or platform.machine()}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices[f"cuda:{index}"] = f"{properties.name}, {_size(properties.total_memory)}"
    if torch.backends.mps.is_available():
        devices["mps"] = platform.machine()
    return {
        "versions": {"frolic": __version__, "python": platform.python_version(), **_versions()},
        "machine": {
            "system": platform.platform(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory": _memory(),
        },
        "devices": devices,
        "disk": {"here": _free(Path.cwd()), "caches": _free(cache)},
        "caches": {"folder": str(cache), "size": _size(_used(cache))},
        "picture": _picture(),
    }


def _picture() -> dict[str, Any]:
    """One known request: the starter at two steps gives a finite picture of the size it was trained at."""
    from frolic.assemble import load

    try:
        pipeline = load("starter", device="auto")
        result = pipeline("a red panda", seed=0, steps=2, output="tensor")
        assert result.pixels is not None
        expected = (3, pipeline.defaults.height, pipeline.defaults.width)
        drawn = tuple(result.pixels.shape[1:]) == expected and float(result.pixels.std()) > 0.01
    except FrolicError as error:
        return {"drawn": False, "code": error.exit_code, "message": str(error)}
    except Exception as error:  # what a driver or a kernel raises is what is looked for here
        code = (ResourceError if is_out_of_memory(error) else FrolicError).exit_code
        return {"drawn": False, "code": code, "message": f"{type(error).__name__}: {error}"}
    said = "as it should be" if drawn else "not as it should be; install frolic again"
    return {
        "drawn": drawn,
        "code": 0 if drawn else 3,
        "message": said,
        "model": pipeline.card.name,
        "device": str(pipeline.device),
        "seconds": round(result.seconds, 3),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def _memory() -> str:
    try:
        return _size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return f"unknown on {sys.platform}"


def _free(path: Path) -> str:
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return f"{_size(shutil.disk_usage(path).free)} free"
    except OSError:
        return "unknown"


def _used(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).lstat().st_size
            except OSError:
                continue
    return total


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
