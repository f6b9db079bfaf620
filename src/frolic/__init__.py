"""Text to pictures, fast, on the machine at hand.

>>> import frolic
>>> pipe = frolic.load("starter")
>>> pipe("a fox", seed=7).save("fox.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frolic.assemble import load
    from frolic.pipeline import Pipeline, Result
    from frolic.request import Request
    from frolic.strength import Strength

__version__ = "0.1.0"
__all__ = ["Pipeline", "Request", "Result", "Strength", "__version__", "load"]

_HOMES = {
    "Pipeline": "frolic.pipeline",
    "Request": "frolic.request",
    "Result": "frolic.pipeline",
    "Strength": "frolic.strength",
    "load": "frolic.assemble",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'frolic' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
