"""What the shipped reward adapters do: ``python benchmarks/reward_adapters.py --out benchmarks/results/NAME.json``.

Held-out prompts from fixed seeds, without an adapter, with each at several weights, and with two at 0.6 and 0.4; every
picture is scored by both adapters' rewards and by some that neither was trained for. Gains are in deviations of
the plain model's scores. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from processes import machine

WEIGHTS = (0.2, 0.4, 0.6, 0.8)


def main() -> int:
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    from frolic.adapters.shelf import shelf

    adapters = {each.name: each for each in shelf()[0] if each.shipped and each.reward and each.base == options.model}
    if len(adapters) < 2:
        sys.exit(f"There are fewer than two shipped reward adapters for {options.model}.")
    rewards = {name: str((each.reward or {})["name"]) for name, each in adapters.items()}
    measure = Measure(options.model, [*dict.fromkeys([*rewards.values(), *options.watched])], options.prompts)
    report: dict[str, Any] = {
        "machine": machine(options.threads),
        "settings": {"model": options.model, "prompts": options.prompts, "seed": 0},
        "rewards": rewards,
        "plain": {"mean": measure.mean, "deviation": measure.deviation},
        "sweep": {name: {f"{w:g}": measure.gains({name: w}) for w in WEIGHTS} for name in adapters},
    }
    first, second = list(adapters)[:2]
    report["blend"] = {"weights": {first: 0.6, second: 0.4}, "gains": measure.gains({first: 0.6, second: 0.4})}
    print(json.dumps({key: report[key] for key in ("rewards", "sweep", "blend")}, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


class Measure:
    """The held-out prompts of the shipped list, drawn and scored."""

    def __init__(self, model: str, rewards: list[str], count: int) -> None:
        import frolic
        from frolic.data.prompts import read_prompts, split_prompts
        from frolic.rewards import make_reward

        self.pipe = frolic.load(model)
        self.prompts = split_prompts(read_prompts(model), count)[1]
        self.rewards = {name: make_reward(name) for name in rewards}
        plain = self.scores({})
        self.mean = {name: float(score.mean()) for name, score in plain.items()}
        self.deviation = {name: float(score.std()) for name, score in plain.items()}

    def scores(self, loras: Mapping[str, float]) -> dict[str, torch.Tensor]:
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in self.rewards}
        for seed, prompt in enumerate(self.prompts):
            pixels = self.pipe(prompt, seed=seed, loras=dict(loras), output="tensor").pixels
            assert pixels is not None
            frames = (pixels.clamp(-1, 1) + 1) / 2
            frames = frames[:, None] if frames.ndim == 4 else frames.transpose(1, 2)
            for name, reward in self.rewards.items():
                parts[name].append(reward.score(frames, [prompt]).float())
        return {name: torch.cat(each) for name, each in parts.items()}

    def gains(self, loras: Mapping[str, float]) -> dict[str, float]:
        found = self.scores(loras)
        return {name: round((float(s.mean()) - self.mean[name]) / self.deviation[name], 3) for name, s in found.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--watched", nargs="*", default=["sharp", "contrast", "alignment"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
