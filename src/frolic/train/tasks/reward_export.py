"""What a reward run leaves behind: the adapter, and what it gained, in its own file."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from frolic.adapters import read, write_experts
from frolic.adapters.read import Target
from frolic.adapters.shelf import REWARD, TRAINED_ON, WEIGHT
from frolic.io import safetensors
from frolic.io.files import write_json
from frolic.lora.trained import Factors
from frolic.train.held_out import HeldOut

WEIGHTS, REPORT = "pytorch_lora_weights.safetensors", "training.json"


@dataclass(frozen=True)
class About:
    """Of the run: the base, words about the adapter, fingerprints of what it was made from, and how."""

    base: str
    base_hash: str
    title: str
    about: str
    trained_on: str
    marks: Mapping[str, str]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Exporting:
    """Writes the best adapter that the checks saw, at the strength they liked best.

    Attributes:
        draw: the held-out prompts with the factors at a strength.
        experts: of each part of ``draw``'s modules, ``high`` or ``low``.
        sweep: strengths to try; the one of most gain above all floors is recommended.
    """

    held_out: HeldOut
    draw: Callable[[Mapping[str, nn.Module], float], Tensor]
    goal: Target
    experts: Mapping[str, str]
    two: bool
    sweep: Sequence[float]
    about: About
    folder: Path

    def __call__(self, modules: Mapping[str, nn.Module], folder: Path) -> None:
        learned = self._best(modules)
        sweep = {weight: self.held_out.gains(self.draw(learned, weight)) for weight in sorted({*self.sweep, 1.0})}
        sound = {weight: self.held_out.value(gains) for weight, gains in sweep.items()}
        # Where every strength costs too much elsewhere, the weakest costs least.
        weight = max(sound, key=lambda each: sound[each]) if any(map(math.isfinite, sound.values())) else min(sound)
        said = self._said(sweep, weight)
        adapters = {self.experts[name]: learned[name].adapter() for name in learned}
        write_experts(adapters, folder / WEIGHTS, self.goal, two=self.two, metadata=said)
        write_json(
            folder / REPORT,
            {
                "base": self.about.base,
                "base_hash": self.about.base_hash,
                "title": self.about.title,
                "made_from": dict(self.about.marks),
                **self.about.facts,
                "weight": weight,
                "sweep": {f"{each:g}": gains for each, gains in sweep.items()},
                "plain": {"mean": dict(self.held_out.base().mean), "deviation": dict(self.held_out.base().deviation)},
                "best": self.held_out.best(),
                "ended": next((entry["stop"] for entry in reversed(self.held_out.history) if entry["stop"]), ""),
            },
        )

    def warm_start(self, factors: Mapping[str, Factors], folder: Path) -> None:
        """Begin with the adapter that a run has exported."""
        for name, each in factors.items():
            each.load(read(folder / WEIGHTS, self.goal, expert=self.experts[name]))

    def _best(self, modules: Mapping[str, nn.Module]) -> dict[str, Factors]:
        learned = {name: copy.deepcopy(each) for name, each in modules.items() if isinstance(each, Factors)}
        learned = {name: each for name, each in learned.items() if name in self.experts}
        best = self.held_out.best()
        if best is not None:
            for name, each in learned.items():
                each.load_state_dict(safetensors.load(self.folder / f"best-{name}.safetensors"))
        return learned

    def _said(self, sweep: Mapping[float, Mapping[str, float]], weight: float) -> dict[str, str]:
        gains = sweep[weight]
        trained = self.held_out.trained
        first = next(iter(trained))
        reward = {
            "name": first,  # what it is for; others are there to keep it honest
            "gain_sd": round(gains[first], 3),
            "gains_sd": {name: round(gains[name], 3) for name in trained},
            "held_out": {name: round(gain, 3) for name, gain in gains.items() if name not in trained},
            "prompts": len(self.held_out.prompts),
            **self.about.facts,
            "made_from": dict(self.about.marks),
        }
        return {
            "modelspec.title": self.about.title,
            "modelspec.architecture": f"{self.about.base}/lora",
            "ss_base_model_version": self.about.base,
            "ss_output_name": self.about.title,
            TRAINED_ON: self.about.trained_on,
            WEIGHT: f"{weight:g}",
            REWARD: json.dumps(reward),
            **({"modelspec.description": self.about.about} if self.about.about else {}),
        }
