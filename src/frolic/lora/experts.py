"""Which of two experts an adapter is for. diffusers calls the one for much noise ``transformer`` and the other one
``transformer_2``; VideoX-Fun has it the other way round, but says high and low in its files' names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

V = TypeVar("V")

HIGH, LOW = "high", "low"
EXPERTS: Mapping[str, str] = {"transformer": HIGH, "transformer_2": LOW}
"""Which of two experts a model's part is."""
METADATA = "frolic.expert"
_PARTS = {expert: f"{part}." for part, expert in EXPERTS.items()}
_VERSION = r"lora|bf16|fp\d+\w*|v?\d[\w.]*|r(?:ank)?\d+"
# Many styles are called low or high something: the word counts at a name's end, or where it says of what.
_WORD = re.compile(
    r"(?<![a-z])(high|low)(?:[-_ ]?(?:noise|model|expert)(?![a-z])|(?=(?:[-_ .]+(?:" + _VERSION + r"))*$))"
)


def part_of(expert: str) -> str:
    """The part of a model that this expert is."""
    return _PARTS[expert].rstrip(".")


def inside(keys: Collection[str]) -> tuple[str, ...]:
    """``high`` and ``low`` where a file with these keys holds adapters of both experts; else none."""
    low = sum(key.startswith(_PARTS[LOW]) for key in keys)
    return (HIGH, LOW) if 0 < low < len(keys) else ()


def of_expert(tensors: Mapping[str, V], expert: str) -> dict[str, V]:
    """Of the tensors of a file that holds both experts' by diffusers' names, those of one, under the first one's names.
    A file of one alone is whole."""
    low = {key: value for key, value in tensors.items() if key.startswith(_PARTS[LOW])}
    rest = {key: value for key, value in tensors.items() if key not in low}
    renamed = {_PARTS[HIGH] + key.removeprefix(_PARTS[LOW]): value for key, value in low.items()}
    if not rest or not low:
        return renamed or rest
    return renamed if expert == LOW else rest


def renamed(tensors: Mapping[str, V], expert: str) -> dict[str, V]:
    """The tensors of one expert, named as the first one's, under diffusers' names for it."""
    return {_PARTS[expert] + key.removeprefix(_PARTS[HIGH]): value for key, value in tensors.items()}


def said_by(name: str, keys: Mapping[str, V], metadata: Mapping[str, str]) -> str:
    """``high`` or ``low``, by a file's keys, its metadata or its ``name``; empty where it is for both, or none says."""
    low = sum(key.startswith(_PARTS[LOW]) for key in keys)
    if low:
        return LOW if low == len(keys) else ""
    if metadata.get(METADATA) in (HIGH, LOW):
        return metadata[METADATA]
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    words = set(_WORD.findall(text))
    both = len(set(re.findall(r"(?<![a-z])(high|low)(?![a-z])", text))) == 2
    return words.pop() if len(words) == 1 and not both else ""
