"""Rewards of clips that are formulas of their motion. A reward that looks at stills is best served by a clip that
stands still; these are what it is weighed against.

B clips, T frames, H/W sides of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from frolic.rewards.base import Base


class Lively(Base):
    """How much moves: the mean change from frame to frame of pictures reduced to 32 pixels a side, so that noise and
    flicker of single pixels count little; of its square root, so that a little motion everywhere counts for more than
    one flash."""

    name = "lively"
    least_frames = 2

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        steps = _reduced(frames_BT3HW).diff(dim=1).flatten(2)
        return (steps.square().mean(dim=2) + 1e-8).sqrt().mean(dim=1)


class Smooth(Base):
    """How even motion is: minus the change of the change, over the change. 0 is a uniform fade, a cut is near -2."""

    name = "smooth"
    least_frames = 3

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        steps = _reduced(frames_BT3HW).diff(dim=1)
        jerk = (steps.diff(dim=1).flatten(1).square().mean(dim=1) + 1e-8).sqrt()
        return -jerk / (steps.flatten(1).square().mean(dim=1) + 1e-4).sqrt()


class Loops(Base):
    """Whether the end leads back to the beginning: minus how far the last frame is from the first, over the usual
    change from frame to frame."""

    name = "loop"
    least_frames = 3

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        x = _reduced(frames_BT3HW)
        gap = ((x[:, -1] - x[:, 0]).flatten(1).square().mean(dim=1) + 1e-8).sqrt()
        return -gap / (x.diff(dim=1).flatten(1).square().mean(dim=1) + 1e-4).sqrt()


class Steady(Base):
    """No flicker: minus how much the brightness of the whole frame changes to and fro."""

    name = "steady"
    least_frames = 3

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        level = frames_BT3HW.float().flatten(2).mean(dim=2)
        return -(level.diff(dim=1).diff(dim=1).square().mean(dim=1) + 1e-8).sqrt()


def _reduced(frames_BT3HW: Tensor, side: int = 32) -> Tensor:
    x = frames_BT3HW.float()
    if max(x.shape[-2:]) <= side:
        return x
    reduced = F.interpolate(x.flatten(0, 1), size=(side, side), mode="area")
    return reduced.unflatten(0, x.shape[:2])
