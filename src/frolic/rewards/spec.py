"""How rewards are spelled, on the command line and in recipes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from frolic.errors import ConfigError, FrolicError, nearest
from frolic.rewards.base import Reward
from frolic.rewards.registry import RewardSpec, is_address, make_reward, names

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:inf|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """A reward and how much it counts; a negative weight wants less of it. ``text`` is how it was spelled, but for what
    follows a ``?`` in an address, which may be a secret."""

    spec: RewardSpec
    weight: float = 1.0
    text: str = ""


def parse_rewards(texts: Sequence[str]) -> list[Wanted]:
    """Each of ``NAME[=WEIGHTS][:WEIGHT]``, ``python:MODULE:FUNCTION[:WEIGHT]`` or ``http://HOST/PATH[:WEIGHT]``.

    ``WEIGHTS`` is the file of the reward's own weights, ``WEIGHT`` the number that it counts with, 1 where none is
    said. Of an address, a number after the host is its port; it has a weight only after a path.

    Raises:
        ConfigError: listing everything that is none of this, and what is given twice.
    """
    problems: list[str] = []
    found = [_parsed(text, problems) for text in texts]
    specs = [(each.spec.name, tuple(sorted(each.spec.options.items()))) for each in found]
    twice = {each.spec.name for each, spec in zip(found, specs, strict=True) if specs.count(spec) > 1}
    problems += [f"{name} is given twice; give it once, with the sum of the weights" for name in sorted(twice)]
    if not texts:
        problems.append(f"there is none; there are {', '.join(names())}, python:MODULE:FUNCTION and http://HOST/PATH")
    if problems:
        raise ConfigError(f"Change the rewards: {'; '.join(problems)}.")
    return found


def make_rewards(wanted: Sequence[Wanted], device: torch.device | str = "cpu") -> list[Reward]:
    """All of them. Raises as ``make_reward``; of several that cannot be made, the error says all."""
    made, errors = [], []
    for each in wanted:
        try:
            made.append(make_reward(each.spec, device))
        except FrolicError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise type(errors[0])("\n".join(map(str, errors))) from errors[0]
    return made


def shown(text: str) -> str:
    """A spelling without what follows a ``?`` in an address, which is sent but never shown or kept."""
    spelled, number = split_weight(text.strip())
    if "?" not in spelled or not is_address(spelled) or spelled.startswith("python:"):
        return text
    return spelled.partition("?")[0] + (f":{number}" if number else "")


def split_weight(text: str) -> tuple[str, str]:
    """``text`` and the number after its last colon, empty where there is none that is not part of an address."""
    head, colon, tail = text.rpartition(":")
    if not colon or not _NUMBER.fullmatch(tail):
        return text, ""
    scheme, slashes, rest = head.partition("://")
    if slashes and is_address(f"{scheme}://") and "/" not in rest:
        return text, ""  # a port
    return head, tail


def _parsed(text: str, problems: list[str]) -> Wanted:
    spelled, number = split_weight(text.strip())
    weight = float(number) if number else 1.0
    if not math.isfinite(weight) or weight == 0:
        problems.append(f"{shown(text)!r} counts with {number}, which is no weight")
    if is_address(spelled):
        problem = _wrong_address(spelled)
        problems += [f"{shown(text)!r} {problem}"] if problem else []
        return Wanted(RewardSpec(spelled), weight, shown(text))
    name, equals, weights = spelled.partition("=")
    if not name:
        problems.append(f"{text!r} names no reward")
    elif name not in names():
        problems.append(f"there is no reward {name!r}{nearest(name, names()) or '; there are ' + ', '.join(names())}")
    if equals and not weights:
        problems.append(f"{text!r} names no file after =")
    return Wanted(RewardSpec(name, {"weights": weights} if weights else {}), weight, text)


def _wrong_address(address: str) -> str:
    if address.startswith("python:"):
        place, _, function = address.removeprefix("python:").rpartition(":")
        right = place and all(part.isidentifier() for part in function.split("."))
        return "" if right else "is not python:MODULE:FUNCTION or python:FILE.py:FUNCTION"
    from frolic.rewards.remote import wrong_with

    problem = wrong_with(address)
    return f"is no address: {problem}" if problem else ""
