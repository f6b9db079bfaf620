"""Rewards of clips that are formulas of their motion. A reward that looks at stills is best served by a clip that
stands still; these are what it is weighed against.

B clips, T frames, H/W sides of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from frolic.rewards.base import Base, wide

_STILL = 0.01
"""A change from frame to frame, of values in [0, 1], that is taken for standing still: what is relative to the usual
change would be best where there is none, and so stillness counts as the change of nothing to this."""


class Lively(Base):
    """How much moves: the mean change over two frames, halved, of pictures reduced to 32 pixels a side, so that noise
    of single pixels counts little; of the root of its square, so that a little motion everywhere counts for more than
    one flash.

    Each frame's mean colour is taken away first, and the change is over two frames: a lamp that flickers, and patches
    that are there in every second frame, are the easy way to change without motion, and are nothing here.
    """

    name = "lively"
    least_frames = 3
    reads_prompt = False

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        x = _reduced(frames_BT3HW)
        x = x - x.mean(dim=(-2, -1), keepdim=True)
        change = (x[:, 2:] - x[:, :-2]).flatten(2) / 2
        return (change.square().mean(dim=2) + 1e-8).sqrt().mean(dim=1)


class Smooth(Base):
    """How even motion is: minus the change of the change, over the change. 0 is a uniform fade, a cut is below -1, and
    so is whatever goes to and fro. A clip that stands still has -1: it would be the smoothest of all. Of pictures
    reduced to 16 pixels a side: a thing that moves on evenly changes evenly while it takes frames to cross a pixel."""

    name = "smooth"
    least_frames = 3
    reads_prompt = False

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        steps = _reduced(frames_BT3HW, 16).diff(dim=1)
        return -(_size(steps.diff(dim=1)) + _STILL) / (_size(steps) + _STILL)


class Loops(Base):
    """Whether the end leads back to the beginning: minus how much farther the last frame is from the first than a frame
    is from the next, over that. 0 is a loop; the last frame need not be the first again, which would be shown twice.
    A clip that stands still has -1, for it would be a loop as well."""

    name = "loop"
    least_frames = 3
    reads_prompt = False

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        x = _reduced(frames_BT3HW)
        usual = _size(x.diff(dim=1))
        return -(F.relu(_size(x[:, -1] - x[:, 0]) - usual) + _STILL) / (usual + _STILL)


class Steady(Base):
    """No flicker: minus how much the colours of the four quarters of the frame change to and fro. By quarter and
    colour, because two lamps that take turns, and red that takes turns with green, leave the whole as bright as it
    was."""

    name = "steady"
    least_frames = 3
    reads_prompt = False

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        x = wide(frames_BT3HW)
        level = F.adaptive_avg_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
        return -_size(level.diff(dim=1).diff(dim=1))


def _size(x_BT: Tensor) -> Tensor:
    """[B], the root of the mean square of what is in a row; where all is 0 its slope is finite."""
    return (x_BT.flatten(1).square().mean(dim=1) + 1e-8).sqrt()


def _reduced(frames_BT3HW: Tensor, side: int = 32) -> Tensor:
    x = wide(frames_BT3HW)
    if max(x.shape[-2:]) <= side:
        return x
    smaller = F.interpolate(x.flatten(0, 1), size=(side, side), mode="area")
    return smaller.unflatten(0, x.shape[:2])
