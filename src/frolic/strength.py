"""How much of an adapter, where and when. Without torch, so that a request can be checked at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from frolic.errors import RequestError

BRANCHES = ("both", "cond", "uncond")
TARGETS = ("auto", "high", "low", "all")
MAX_WEIGHT = 100.0


@dataclass(frozen=True)
class Strength:
    """``weight`` of an adapter, 1 as it was trained and 0 none at all; a negative one pushes away from it.

    ``start`` and ``end``: between which shares of the steps it acts, 0 to 1. ``branch``: on the prompt's branch of
    guidance (``cond``), on the other one (``uncond``), or on ``both``. ``blocks``: the first and the last block that it
    acts in; None is all of them, and what lies outside of blocks. ``target``: which expert of a model that has two it
    changes, the one for much noise (``high``), the one for little (``low``) or ``all``; ``auto`` is what its file says.

    Raises:
        RequestError: listing everything that is none of this.
    """

    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    branch: str = "both"
    blocks: tuple[int, int] | None = None
    target: str = "auto"

    def __post_init__(self) -> None:
        problems = []
        if not _number(self.weight) or abs(self.weight) > MAX_WEIGHT:
            problems.append(f"a weight of {self.weight!r} is not within {MAX_WEIGHT:g} of 0")
        if not (_number(self.start) and _number(self.end) and 0 <= self.start < self.end <= 1):
            problems.append(f"steps={self.start!r}-{self.end!r} are not two shares of 0 to 1, the lower one first")
        if self.branch not in BRANCHES:
            problems.append(f"branch={self.branch!r} is not {', '.join(BRANCHES[:-1])} or {BRANCHES[-1]}")
        if self.target not in TARGETS:
            problems.append(f"target={self.target!r} is not {', '.join(TARGETS[:-1])} or {TARGETS[-1]}")
        blocks = self.blocks
        if blocks is not None and not (
            isinstance(blocks, tuple) and len(blocks) == 2 and all(type(n) is int for n in blocks)
            and 0 <= blocks[0] <= blocks[1]
        ):  # fmt: skip
            problems.append(f"blocks={blocks!r} are not a first and a last block")
        if problems:
            raise RequestError(f"Change the adapter's strength: {'; '.join(problems)}.")

    @property
    def plain(self) -> bool:
        """Whether it is a weight and nothing else."""
        return self == Strength(self.weight)

    def to_json(self) -> Any:
        """The weight alone where it says everything."""
        if self.plain:
            return self.weight
        said = {key: value for key, value in asdict(self).items() if value != getattr(Strength(), key)}
        return {"weight": self.weight, **said}

    @classmethod
    def of(cls, value: Any) -> Strength:
        """From a number, a mapping of the fields, or a ``Strength``. Raises RequestError."""
        if isinstance(value, Strength):
            return value
        if isinstance(value, Mapping):
            known = asdict(cls())
            if unknown := [str(key) for key in value if key not in known]:
                raise RequestError(f"A strength has no {', '.join(unknown)}; it has {', '.join(known)}.")
            fields = dict(value)
            if isinstance(fields.get("blocks"), list):
                fields["blocks"] = tuple(fields["blocks"])
            return cls(**fields)
        return cls(value)


Blend = tuple[tuple[str, Strength], ...]
"""Adapters by name, with the strength of each."""


def blend_of(value: Mapping[str, Any]) -> Blend:
    """From adapters' names to what ``Strength.of`` takes. Raises RequestError."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise RequestError('Give loras as a mapping from adapters to weights, as {"glow.safetensors": 0.6}.')
    return tuple((name, Strength.of(each)) for name, each in value.items())


def strengths(texts: Iterable[str]) -> dict[str, Strength]:
    """By source, of texts as ``parse`` reads them; as trained where none is said. Raises RequestError."""
    return {source: strength or Strength() for source, strength in map(parse, texts)}


_WEIGHT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)
_RANGE = re.compile(r"([\d.]+)(?:-([\d.]+))?")


def parse(text: str) -> tuple[str, Strength | None]:
    """``SRC[:WEIGHT][,steps=A-B][,branch=B][,blocks=F-L][,target=T]``: the source, and its strength where one is said.

    A colon belongs to the source unless a number follows it and nothing else: ``C:\\glow`` and ``org/name`` are whole.

    Raises:
        RequestError: what follows the source is none of this.
    """
    source, *options = text.split(",")
    weight = None
    head, colon, tail = source.rpartition(":")
    if colon and _WEIGHT.fullmatch(tail):
        source, weight = head, float(tail)
    if not source:
        raise RequestError(f"There is no adapter in --lora {text!r}; give a name or a file, as glow.safetensors:0.6.")
    fields: dict[str, Any] = {} if weight is None else {"weight": weight}
    for option in options:
        key, _, value = option.strip().partition("=")
        found = _RANGE.fullmatch(value)
        if key == "steps" and found and found[2]:
            fields["start"], fields["end"] = _float(found[1]), _float(found[2])
        elif key == "blocks" and found and found[1].isdecimal() and (found[2] or found[1]).isdecimal():
            fields["blocks"] = (int(found[1]), int(found[2] or found[1]))
        elif key in ("branch", "target"):
            fields[key] = value
        else:
            raise RequestError(
                f"{option!r} in --lora {text!r} is not steps=0-0.5, branch=cond, blocks=0-3 or target=high; a "
                "comma cannot be part of the file's name."
            )
    return source, Strength(**fields) if fields else None


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
