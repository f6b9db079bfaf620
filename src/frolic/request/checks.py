"""Limits of a request, and checks that add what is wrong to a list."""

from __future__ import annotations

import math
from typing import Any

MAX_SEED = 2**63 - 1
MAX_STEPS = 1000
MAX_GUIDANCE = 100.0
MAX_SIDE = 8192
MAX_PROMPT = 20_000
MAX_PICTURES = 1000
MAX_LAYER = 1023
MAX_FRAMES = 1025
MAX_FPS = 120
SAMPLERS = ("dpmpp_2m", "dpmpp_2m_heun", "dpmpp_3m", "dpmpp_3m_heun", "dpmpp_1s", "euler", "unipc", "scm")
SCHEDULES = ("diffusers", "native", "wan")


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def check_number(problems: list[str], name: str, value: Any, low: float, high: float) -> None:
    """``value`` must be a number from ``low`` to ``high``."""
    if not (is_number(value) and low <= value <= high):
        problems.append(f"{name} is {value!r}, it must be {low:g} to {high:g}")


def check_integer(problems: list[str], name: str, value: Any, low: int, high: int) -> None:
    """``value`` must be None or a whole number from ``low`` to ``high``."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high):
        problems.append(f"{name} is {value!r}, it must be {low} to {high}")


def check_text(problems: list[str], name: str, value: Any) -> None:
    """``value`` must be a text that is valid Unicode and not too long."""
    if not isinstance(value, str):
        problems.append(f"{name} must be a text")
    elif len(value) > MAX_PROMPT:
        problems.append(f"{name} has {len(value):,} characters, the most is {MAX_PROMPT:,}")
    elif any("\ud800" <= char <= "\udfff" for char in value):
        problems.append(f"{name} is not valid Unicode text")
