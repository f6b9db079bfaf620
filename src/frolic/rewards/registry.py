"""Rewards by name. A value of the table is ``module:factory``, imported when the reward is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from typing import Any

import torch

from frolic.errors import ConfigError, nearest
from frolic.rewards.base import Reward

_BUILT_IN: Mapping[str, str] = {
    "vivid": "frolic.rewards.looks:Vivid",
    "contrast": "frolic.rewards.looks:Contrast",
    "sharp": "frolic.rewards.looks:Sharp",
    "bright": "frolic.rewards.looks:Bright",
    "lively": "frolic.rewards.motion:Lively",
    "smooth": "frolic.rewards.motion:Smooth",
    "loop": "frolic.rewards.motion:Loops",
    "steady": "frolic.rewards.motion:Steady",
    "ocr": "frolic.rewards.ocr:Legible",
    "alignment": "frolic.rewards.dual:Alignment",
    "preference": "frolic.rewards.preference:Preference",
    "fun": "frolic.rewards.preference:Fun",
    "aesthetic-v2": "frolic.rewards.aesthetic:AestheticV2",
    "aesthetic-v2.5": "frolic.rewards.aesthetic:AestheticV25",
    "hps-v2.0": "frolic.rewards.agreement:HPSv2",
    "hps-v2.1": "frolic.rewards.agreement:HPSv21",
    "pickscore": "frolic.rewards.agreement:PickScore",
    "mps": "frolic.rewards.mps:MPS",
    "clip": "frolic.rewards.agreement:ClipScore",
}
_BY_ADDRESS: Mapping[str, str] = {
    "python:": "frolic.rewards.called:Called",
    "http://": "frolic.rewards.remote:Remote",
    "https://": "frolic.rewards.remote:Remote",
}
"""How names begin that say where a reward is, and what is given the whole name. ``python:`` runs code: such a name
comes from a command line or a recipe, and never out of a record or a file's metadata."""


@dataclass(frozen=True)
class RewardSpec:
    """A reward to make: ``name`` of the table, and what its factory takes (weight files, options)."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def names() -> tuple[str, ...]:
    """The rewards that come with frolic."""
    return tuple(_BUILT_IN)


def is_address(name: str) -> bool:
    """Whether ``name`` is not of the table, but says where a reward is."""
    return name.startswith(tuple(_BY_ADDRESS))


def make_reward(spec: RewardSpec | str, device: torch.device | str = "cpu") -> Reward:
    """The reward, its weights read, on ``device``.

    Raises:
        ConfigError: there is none of that name, or it takes no such options, or nothing is where it should be.
        FileError, CheckpointError: its weights cannot be read, or do not fit.
    """
    spec = RewardSpec(spec) if isinstance(spec, str) else spec
    place, options = _BUILT_IN.get(spec.name), dict(spec.options)
    if is_address(spec.name):
        place = next(place for start, place in _BY_ADDRESS.items() if spec.name.startswith(start))
        options["address"] = spec.name
    if place is None:
        raise ConfigError(
            f"There is no reward {spec.name!r}{nearest(spec.name, _BUILT_IN)}; there are {', '.join(_BUILT_IN)}, "
            "python:MODULE:FUNCTION and http://HOST/PATH."
        )
    module, _, factory = place.partition(":")
    make = getattr(import_module(module), factory)
    try:
        signature(make).bind(**options)
    except TypeError as error:
        raise ConfigError(f"The reward {spec.name!r} cannot be made so: {error}.") from error
    reward = make(**options)
    if isinstance(reward, torch.nn.Module):
        reward.to(device).eval().requires_grad_(False)
    assert isinstance(reward, Reward)
    return reward
