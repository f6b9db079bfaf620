"""What the values of a request may be."""

from __future__ import annotations

import math
from typing import Any

MAX_PROMPT = 20_000


def parse_aspect(text: Any) -> tuple[float, float] | None:
    """Width and height of "16:9" (or "16x9", "16/9"), or None."""
    if not isinstance(text, str):
        return None
    parts = text.replace("x", ":").replace("/", ":").split(":")
    try:
        width, height = (float(part) for part in parts)
    except ValueError:
        return None
    sane = all(math.isfinite(side) and side > 0 for side in (width, height))
    return (width, height) if sane and 0.25 <= width / height <= 4 else None


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def check_integer(problems: list[str], name: str, value: Any, low: int, high: int) -> None:
    """Note a value that is given and is no integer from ``low`` to ``high``."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high):
        problems.append(f"{name} is {value!r}, it must be {low} to {high}")


def check_text(problems: list[str], name: str, value: Any) -> None:
    """Note what is no text that can be read."""
    if not isinstance(value, str):
        problems.append(f"{name} must be a text")
    elif len(value) > MAX_PROMPT:
        problems.append(f"{name} has {len(value):,} characters, the most is {MAX_PROMPT:,}")
    elif any("\ud800" <= char <= "\udfff" for char in value):
        problems.append(f"{name} is not valid Unicode text")
