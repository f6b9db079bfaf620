"""What a reward is.

B clips, T frames of each (1 of a picture), H/W sides of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from frolic.errors import NumericsError


@runtime_checkable
class Reward(Protocol):
    """Scores of pictures or clips; more is better.

    Attributes:
        name: what it is called in recipes, tables and an adapter's metadata.
        differentiable: whether ``score`` passes gradients on to ``frames``.
        marks: of every weight file it reads, a fingerprint, by what to call it.
        least_frames: how many frames it needs to say anything: 2 of what judges motion.

    The score of one clip depends on that clip and its prompt alone, never on what else is in the batch. ``score`` opens
    no files: weights are read when the reward is made, and a prompt's text states are kept once they are computed.
    """

    name: str
    differentiable: bool
    marks: Mapping[str, str]
    least_frames: int

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        """``[B]`` in float32, of ``[B, T, 3, H, W]`` in [0, 1] and B prompts."""
        ...

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises RequestError: listing those that it could not score a picture of."""
        ...


class Base(nn.Module):
    """What most rewards share. A subclass sets ``name`` and defines ``score``; a module, so that what it holds can be
    moved, and none of it is ever trained through a reward.

    ``reads_prompt``: whether the prompt matters; who has none then says so, instead of scoring against an empty one.
    """

    name: str = ""
    differentiable: bool = True
    least_frames: int = 1
    reads_prompt: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.marks: Mapping[str, str] = {}

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Any will do."""

    def freeze(self) -> None:
        """No parameter of it wants a gradient, and dropout and the like are off."""
        self.eval().requires_grad_(False)

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        raise NotImplementedError

    def forward(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score(frames_BT3HW, prompts)


def per_frame(score: Callable[[Tensor], Tensor], frames_BT3HW: Tensor) -> Tensor:
    """``[B]``: the mean over its frames of what ``score`` gives a picture: ``[N, 3, H, W] -> [N]``."""
    return wide(score(frames_BT3HW.flatten(0, 1))).unflatten(0, frames_BT3HW.shape[:2]).mean(dim=1)


def finite(name: str, scores_B: Tensor) -> Tensor:
    """``scores_B``, all of which are numbers: a mean over one that is none would be none, and not say whose fault.

    Raises:
        NumericsError: naming the reward and the clips.
    """
    wrong = (~torch.isfinite(scores_B.detach())).nonzero().flatten().tolist()
    if wrong:
        some = ", ".join(str(place + 1) for place in wrong[:8]) + (" ..." if len(wrong) > 8 else "")
        raise NumericsError(
            f"The reward {name} gave no finite number for {len(wrong)} of {len(scores_B)} clips (number {some}); look "
            "at them, or leave the reward out."
        )
    return scores_B


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 where it is: formulas are checked there against finite differences."""
    return x if x.dtype == torch.float64 else x.float()
