"""Whether a reward is still worth its gain: other rewards, of prompts that are not trained with, with the adapter and
without, all through a run.

A model that is rewarded long enough finds what the reward overlooks; then the reward goes up and all else goes down.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frolic.errors import ConfigError
from frolic.io.files import write_bytes
from frolic.rewards import Reward
from frolic.train.metrics import lines_until

HISTORY = "held_out.jsonl"
_AT_ONCE = 32  # frames that a reward sees together


@dataclass(frozen=True)
class Checked:
    """What a check found: scalars to record, pictures to look at, and why the run should end now, or nothing."""

    values: Mapping[str, float]
    pictures: Tensor | None = None
    stop: str = ""


@dataclass(frozen=True)
class Base:
    """The mean and the deviation of each reward over what the plain model draws."""

    mean: Mapping[str, float]
    deviation: Mapping[str, float]


Draw = Callable[[Mapping[str, nn.Module]], Tensor]
"""Frames ``[N, T, 3, H, W]`` in [0, 1] of the held-out prompts, from fixed noise; nothing is read of no modules."""


@dataclass
class HeldOut:
    """Checks every so many steps.

    Attributes:
        device: where rewards compute; frames wait on the CPU.
        trained: the weights of the rewards that are trained with.
        floor: how many deviations any other reward may lie below the plain model's.
        patience: the run ends when it does so in as many checks one after the other.
        keep: is told of every check that is the best so far, to keep what was learned.
    """

    every: int
    prompts: Sequence[str]
    rewards: Sequence[Reward]
    trained: Mapping[str, float]
    draw: Draw
    floor: float = 0.1
    patience: int = 2
    keep: Callable[[Mapping[str, nn.Module], Path], None] | None = None
    device: torch.device | str = "cpu"
    history: list[dict[str, Any]] = field(default_factory=list)
    _plain: tuple[Tensor, Base] | None = None

    def base(self) -> Base:
        return self._shown()[1]

    def scores(self, frames: Tensor) -> dict[str, Tensor]:
        """[N] of each reward, a few frames at a time: large rewards have large layers. Batch mates change no score."""
        size = max(1, _AT_ONCE // frames.shape[1])
        found = {}
        for reward in self.rewards:
            parts = [
                reward.score(some.to(self.device), self.prompts[first : first + len(some)]).float().cpu()
                for first, some in zip(range(0, len(frames), size), frames.split(size), strict=True)
            ]
            found[reward.name] = torch.cat(parts)
        return found

    def gains(self, frames: Tensor) -> dict[str, float]:
        """How much more each reward gives than for the plain model, in its deviations; of pictures that it gives a
        number for."""
        base = self.base()
        return {
            name: (float(_known(score).mean()) - base.mean[name]) / base.deviation[name]
            for name, score in self.scores(frames).items()
        }

    def value(self, gains: Mapping[str, float]) -> float:
        """The weighted gain of what is trained; minus infinity where another reward is below its floor."""
        fallen = self.fallen(gains)
        return -math.inf if fallen else sum(weight * gains[name] for name, weight in self.trained.items())

    def fallen(self, gains: Mapping[str, float]) -> list[str]:
        """The rewards that are not trained with and lie below their floor (or are not numbers)."""
        return [name for name, gain in gains.items() if name not in self.trained and not gain >= -self.floor]

    def resume(self, step: int, folder: Path) -> str:
        """Go on with what was found up to ``step``. What it returns is why the run had ended, or nothing."""
        self.history = lines_until(folder / HISTORY, step)
        return str(self.history[-1]["stop"]) if self.history else ""

    def check(self, step: int, modules: Mapping[str, nn.Module], folder: Path) -> Checked:
        """Score what ``modules`` (averaged, without gradients) draw, and note it in ``folder``."""
        frames = self.draw(modules)
        gains = self.gains(frames)
        best, value = self.best(), self.value(gains)
        if value > (-math.inf if best is None else best["value"]) and self.keep is not None:
            self.keep(modules, folder)
        fallen = self.fallen(gains)
        run = 1 + sum(1 for _ in takewhile(lambda entry: entry["fallen"], reversed(self.history)))
        stop = ""
        if fallen and run >= self.patience:
            stop = (
                f"{', '.join(fallen)} of held-out prompts fell more than {self.floor:g} deviations below the plain "
                f"model's in {run} checks, while what is trained gained: the run ends at step {step}, with the "
                "best adapter before."
            )
        entry = {
            "step": step,
            "gains": gains,
            "value": value if math.isfinite(value) else None,
            "fallen": fallen,
            "stop": stop,
        }
        self.history.append(entry)
        text = "".join(json.dumps(each) + "\n" for each in self.history)
        write_bytes(folder / HISTORY, text.encode(), force=True)
        values = {f"held_out/{name}": gain for name, gain in gains.items() if math.isfinite(gain)}
        return Checked(values, self._beside(frames), stop)

    def best(self) -> dict[str, Any] | None:
        """The check whose adapter was kept."""
        sound = [entry for entry in self.history if entry["value"] is not None]
        return max(sound, key=lambda entry: entry["value"], default=None)

    def _shown(self) -> tuple[Tensor, Base]:
        if self._plain is None:
            frames = self.draw({})
            scores = self.scores(frames)
            if none := [name for name, score in scores.items() if len(_known(score)) < 2]:
                raise ConfigError(
                    f"{', '.join(none)} gave a number for fewer than 2 of {len(frames)} held-out pictures of the plain "
                    "model, which is too few to tell what a gain is; hold out more prompts, or leave it out."
                )
            mean = {name: float(_known(score).mean()) for name, score in scores.items()}
            deviation = {name: max(float(_known(score).std()), 1e-6) for name, score in scores.items()}
            self._plain = frames, Base(mean, deviation)
        return self._plain

    def _beside(self, frames: Tensor, count: int = 8) -> Tensor:
        """The plain model's pictures and these, in turns, in [-1, 1]; of a clip its first, middle and last frame."""
        plain = self._shown()[0]
        shown = torch.stack([plain[:count], frames[:count]], dim=1).flatten(0, 1)
        places = sorted({0, shown.shape[1] // 2, shown.shape[1] - 1})
        return torch.cat([shown[:, place] for place in places], dim=-1) * 2 - 1


def _known(score_N: Tensor) -> Tensor:
    """Those that are numbers."""
    return score_N[torch.isfinite(score_N)]
