"""Learn from choices between two clips which one is liked.

B pairs, K numbers that describe a clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frolic.models.dual import PreferenceHead, bradley_terry


class Choices:
    """Bradley and Terry's loss on described clips, and ``ridge`` halves of the squares of the weights; the head is what
    is trained."""

    def __init__(self, head: PreferenceHead, ridge: float = 0.0) -> None:
        self.head, self.ridge = head, ridge

    def modules(self) -> Mapping[str, nn.Module]:
        return {"head": self.head}

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``batch``: ``left`` and ``right`` [B, K], ``goal`` [B] (1: left, 0: right, 0.5: equal)."""
        left, right = self.head(batch["left"]), self.head(batch["right"])
        goal = batch["goal"]
        loss = bradley_terry(left.float(), right.float(), goal)
        told = goal != 0.5
        right_way = ((left > right) == (goal > 0.5)) & told
        chosen = {"agreement": right_way.sum() / told.sum().clamp_min(1), "choices": loss.detach()}
        return loss + self.ridge / 2 * self.head.ridge(), chosen

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None


@dataclass(frozen=True)
class Described:
    """Pairs as numbers: ``left`` and ``right`` [N, K], ``goal`` [N]. A batch is drawn from them with replacement."""

    left: Tensor
    right: Tensor
    goal: Tensor

    def __len__(self) -> int:
        return len(self.goal)

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        row = torch.randint(len(self.goal), (size,), generator=generator)
        return {"left": self.left[row], "right": self.right[row], "goal": self.goal[row]}


@torch.no_grad()
def agreement(head: PreferenceHead, pairs: Described) -> float | None:
    """The share of choices, ties aside, that the head decides alike; None where there are none."""
    told = pairs.goal != 0.5
    if not bool(told.any()):
        return None
    device = head.mean.device
    wins = head(pairs.left.to(device)) > head(pairs.right.to(device))
    return round(float(((wins.cpu() == (pairs.goal > 0.5)) & told).sum() / told.sum()), 4)
