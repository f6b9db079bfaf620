"""Several rewards as one.

R rewards, B clips, T frames of each, H/W sides of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frolic.errors import ConfigError
from frolic.rewards.base import Base, Reward, finite

MODES = ("sum", "min", "rank")


@dataclass(frozen=True)
class Scale:
    """What is usual of a reward: its mean, and its deviation, by which it is divided so that a weight means the same
    for a reward of 0 to 1 and for one of 20 to 30."""

    centre: float = 0.0
    deviation: float = 1.0


class Combined(Base):
    """One number of several rewards' scores.

    ``sum``: the weighted sum of the scores, each less its centre and over its deviation. ``min``: the least of them, so
    that none is bought with another; its weights are 1, or -1 of what should be less. ``rank``: the weighted mean of
    each clip's rank among the batch, 0 the worst and 1 the best, ties in the middle: whatever the scores' scales, but
    no longer a score of the clip alone, and without a slope; so only for objectives that take a whole batch's scores
    as they are, which say so by ``black_box``.

    ``scales``: of each reward; of a single one it need not be given. ``measured`` finds them in a sample; they are
    fixed from there on, because what is divided by the batch's own deviation depends on the batch.

    Raises:
        ConfigError: there is no such mode, or it does not suit the rewards, weights, scales or the objective.
        NumericsError: a score is not finite, naming the reward.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        weights: Sequence[float] | None = None,
        mode: str = "sum",
        scales: Sequence[Scale] | None = None,
        *,
        black_box: bool = False,
    ) -> None:
        super().__init__()
        self.rewards = tuple(rewards)
        self.weights = (1.0,) * len(self.rewards) if weights is None else tuple(weights)
        self.mode = mode
        self.scales = None if scales is None else tuple(scales)
        self._check(black_box)
        # So that they move along; those that are no modules have nothing to move.
        self.parts = nn.ModuleList(each for each in self.rewards if isinstance(each, nn.Module))
        named = [
            each.name if w == 1 else f"{w:g} {each.name}" for each, w in zip(self.rewards, self.weights, strict=True)
        ]
        self.name = named[0] if len(named) == 1 else f"{mode}({', '.join(named)})"
        self.differentiable = mode != "rank" and all(each.differentiable for each in self.rewards)
        self.reads_prompt = any(getattr(each, "reads_prompt", True) for each in self.rewards)
        self.least_frames = max(each.least_frames for each in self.rewards)
        self.marks: Mapping[str, str] = {
            f"{each.name}/{key}": mark for each in self.rewards for key, mark in each.marks.items()
        }

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.together(self.apart(frames_BT3HW, prompts))

    def apart(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        """``[R, B]``, the scores of each reward as it gives them."""
        return torch.stack([finite(each.name, each.score(frames_BT3HW, prompts)) for each in self.rewards])

    def together(self, scores_RB: Tensor) -> Tensor:
        """``[B]``, of scores as ``apart`` gives them."""
        for each, scores in zip(self.rewards, scores_RB, strict=True):
            finite(each.name, scores)
        weights = torch.tensor(self.weights, device=scores_RB.device, dtype=scores_RB.dtype)[:, None]
        if self.mode == "rank":
            return (weights * _ranks(scores_RB)).sum(dim=0) / weights.abs().sum()
        assert self.scales is not None or len(self.rewards) == 1, "scales are given, or measured first"
        scales = self.scales or (Scale(),)
        centre, deviation = (
            torch.tensor(each, device=scores_RB.device, dtype=scores_RB.dtype)[:, None]
            for each in zip(*((scale.centre, scale.deviation) for scale in scales), strict=True)
        )
        scaled = weights * (scores_RB - centre) / deviation
        return scaled.sum(dim=0) if self.mode == "sum" else scaled.amin(dim=0)

    def measured(self, scores_RB: Tensor) -> Combined:
        """The same with the scales of these scores, as ``apart`` gives them.

        Raises:
            ConfigError: they are too few, or all alike for a reward, which then cannot be weighed against another.
        """
        if scores_RB.shape[1] < 2:
            raise ConfigError("How much rewards vary cannot be measured on one clip; give two or more.")
        scales = []
        for each, scores in zip(self.rewards, scores_RB.detach().double(), strict=True):
            mean, deviation = float(scores.mean()), float(scores.std())
            finite(each.name, scores)
            if deviation <= 1e-9 * max(1.0, abs(mean)):
                raise ConfigError(
                    f"The reward {each.name} gives {mean:g} to all of {scores_RB.shape[1]} clips, so it cannot be "
                    "weighed against others; leave it out, or give more clips."
                )
            scales.append(Scale(mean, deviation))
        # Whoever made this one said already what the objective is.
        return Combined(self.rewards, self.weights, self.mode, scales, black_box=True)

    def _check(self, black_box: bool) -> None:
        problems = []
        if not self.rewards:
            problems.append("there are none")
        if len(self.weights) != len(self.rewards):
            problems.append(f"there are {len(self.weights)} weights for {len(self.rewards)} of them")
        if not all(math.isfinite(w) and w for w in self.weights):
            problems.append(f"weights are numbers other than 0, not {', '.join(f'{w:g}' for w in self.weights)}")
        if self.mode not in MODES:
            problems.append(f"they are combined by {', '.join(MODES[:-1])} or {MODES[-1]}, not by {self.mode!r}")
        if self.mode == "min" and any(abs(w) != 1 for w in self.weights):
            problems.append("the least of several is not weighed; weights are 1, or -1, with min")
        if self.mode == "rank" and not black_box:
            problems.append(
                "rank has no slope and depends on the whole batch, so it is for objectives without gradients only"
            )
        if self.scales is not None and len(self.scales) != len(self.rewards):
            problems.append(f"there are {len(self.scales)} scales for {len(self.rewards)} of them")
        for scale in self.scales or ():
            if not (math.isfinite(scale.centre) and math.isfinite(scale.deviation) and scale.deviation > 0):
                problems.append(f"a deviation of {scale.deviation:g} around {scale.centre:g} is none")
        if problems:
            raise ConfigError(f"These rewards cannot be combined: {'; '.join(problems)}.")


def _ranks(scores_RB: Tensor) -> Tensor:
    """[R, B], 0 to 1: of each clip the share of the others that are worse, ties counting half."""
    batch = scores_RB.shape[1]
    if batch == 1:
        return torch.full_like(scores_RB, 0.5)
    worse = (scores_RB[:, None, :] < scores_RB[:, :, None]).sum(dim=2)
    alike = (scores_RB[:, None, :] == scores_RB[:, :, None]).sum(dim=2) - 1
    return (worse + alike / 2).to(scores_RB.dtype) / (batch - 1)
