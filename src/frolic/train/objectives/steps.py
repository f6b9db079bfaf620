"""Which steps of a drawing are trained in one update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field

from frolic.config import Positive, Section
from frolic.errors import ConfigError

Way = Literal["stratified", "random", "uniform", "last", "tail", "list"]


class StepSettings(Section):
    """``choose``: ``random`` takes ``count`` of the steps; ``stratified`` one of each of ``count`` equal parts of them,
    so that no part is left out for long; ``uniform`` every so many, from a random one on (DRTune); ``last`` the last
    one; ``tail`` the last ``count`` (DRaFT-K); ``list`` those of ``steps``, from 0. With two experts, each expert's
    steps are chosen from by themselves: its last one, its tail."""

    choose: Way = "stratified"
    count: Positive = 1
    steps: list[Annotated[int, Field(ge=0)]] = []


@dataclass(frozen=True)
class StepChoice:
    """A way to choose, over the steps of each of the experts that are trained."""

    settings: StepSettings
    groups: Sequence[range]

    @classmethod
    def of(cls, settings: StepSettings, groups: Sequence[range]) -> StepChoice:
        """``groups``: the steps of each expert that is trained.

        Raises:
            ConfigError: a listed step is none of theirs, or there are fewer steps than are to be chosen.
        """
        wrong = []
        allowed = [step for group in groups for step in group]
        spans = ", ".join(f"{group[0]} to {group[-1]}" for group in groups if len(group)) or "none"
        if not allowed:
            wrong.append("the experts that are trained have no steps: give more steps, or another shift")
        if settings.choose == "list":
            if not settings.steps:
                wrong.append("job.gradient.choice.choose is list, but job.gradient.choice.steps is empty")
            outside = sorted({step for step in settings.steps if step not in allowed})
            if outside:
                named = ", ".join(map(str, outside))
                wrong.append(f"steps {named} are not of an expert that is trained; those are {spans}")
        elif settings.steps:
            wrong.append(f"job.gradient.choice.steps are for choose: list, not {settings.choose}")
        least = min((len(group) for group in groups), default=0)
        if settings.choose not in ("list", "last") and settings.count > least > 0:
            wrong.append(f"job.gradient.choice.count is {settings.count}, of {least} steps")
        if wrong:
            raise ConfigError(f"No steps can be chosen: {'; '.join(wrong)}.")
        return cls(settings, tuple(groups))

    def pick(self, generator: torch.Generator) -> list[int]:
        """Steps for one update, in their order."""
        if self.settings.choose == "list":
            return sorted(set(self.settings.steps))
        return sorted(step for group in self.groups for step in self._of(group, generator))

    def _of(self, group: range, generator: torch.Generator) -> list[int]:
        total, count = len(group), self.settings.count

        def below(limit: int) -> int:
            return int(torch.randint(limit, (), generator=generator))

        match self.settings.choose:
            case "last":
                return [group[-1]]
            case "tail":
                return list(group[total - count :])
            case "random":
                return [group[int(place)] for place in torch.randperm(total, generator=generator)[:count]]
            case "uniform":
                # Places start, start + total / count, ...: the random start is less than one stride.
                stride = total / count
                start = float(torch.rand((), generator=generator)) * stride
                return [group[min(total - 1, int(start + number * stride))] for number in range(count)]
            case _:
                ends = [round(number * total / count) for number in range(count + 1)]
                return [group[low + below(high - low)] for low, high in pairwise(ends)]
