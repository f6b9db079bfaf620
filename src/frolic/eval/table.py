"""The model card's table, from what ``frolic eval starter --suite all --out`` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frolic.errors import CheckpointError

LINES: tuple[tuple[str, str, str, float], ...] = (
    ("single object, all concepts, top-1 among all", "single", "accuracy", 0.85),
    ("single object, the 200 everyday ones", "single-everyday", "accuracy", 0.95),
    ("two objects both right", "two", "accuracy", 0.65),
    ("colour of object (object right too)", "colour", "accuracy", 0.75),
    ("colour of background", "background", "colour", 0.95),
    ("landscape in the background", "background", "landscape", 0.0),
    ("counting 1-4", "count", "accuracy", 0.55),
    ("position", "position", "accuracy", 0.60),
    ("style (object right too)", "style", "accuracy", 0.0),
    ("unseen synonyms", "synonym", "accuracy", 0.60),
)
"""What a line says, its suite and which of the suite's figures, and what it should be at least (0: nothing was set)."""


def markdown(results: Mapping[str, Any]) -> str:
    """One line a figure: what was aimed at, what was measured, and what the judge gives true pictures.

    Raises CheckpointError when ``results`` are of something else.
    """
    try:
        return "\n".join(_lines(results)) + "\n"
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"Give a file that `frolic eval starter --suite all --out` wrote ({error}).") from error


def _lines(results: Mapping[str, Any]) -> list[str]:
    ceilings = (results.get("judge") or {}).get("ceilings") or {}
    lines = ["| | at least | measured | true pictures | prompts |", "|---|---|---|---|---|"]
    for label, suite, key, target in LINES:
        if suite not in results["suites"]:
            continue
        found = results["suites"][suite]
        value = found["accuracy"] if key == "accuracy" else found["parts"].get(key)
        ceiling = ceilings.get(suite, {}).get(key)
        lines.append(f"| {label} | {_share(target or None)} | {_share(value)} | {_share(ceiling)} | {found['n']} |")
    if rebuilt := results.get("reconstruction"):
        lines.append(f"| autoencoder PSNR on held-out renders | 27 dB | {rebuilt['psnr']} dB | | {rebuilt['n']} |")
        if rebuilt["lpips"] is not None:
            lines.append(f"| autoencoder LPIPS on the same | | {rebuilt['lpips']} | 0 | {rebuilt['n']} |")
    if distance := results.get("fid"):
        fid = f"| FID, EfficientNet-Lite0 features | | {distance['fid']} | {distance['floor']} | {distance['n']} |"
        lines.append(fid)
    return lines


def _share(value: float | None) -> str:
    return "" if value is None else f"{value * 100:.1f} %"
