"""The judge: a small convolutional classifier over all concepts of the starter's training set.

It has seen real renders only (never a generated picture) and shares no weight, no code path and no augmentation with
the model it judges.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from frolic.errors import CheckpointError, FileError

SIDE = 64
WIDTHS = (32, 64, 96, 128)


class Residual(nn.Module):
    """``x + conv(relu(conv(x)))`` with batch norm; the first convolution may change width and halve the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.down_norm = nn.BatchNorm2d(outputs)
        self.conv = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down_norm(self.down(x)))
        return F.relu(x + self.norm(self.conv(x)))


class JudgeNet(nn.Module):
    """[B, 3, 64, 64] in [-1, 1] -> logits [B, classes]; about 0.58 M parameters for a thousand classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(WIDTHS[0])
        self.stages = nn.Sequential(*(Residual(a, b) for a, b in itertools.pairwise(WIDTHS)))
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        return self.head(self.stages(x).mean((2, 3)))


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in one picture: the best concept's code, its probability, and the five best codes."""

    code: str
    probability: float
    best: tuple[str, ...]


class Judge:
    """Loaded weights and the codes of the concepts they know, in the order of the logits."""

    def __init__(self, net: JudgeNet, codes: Sequence[str], facts: dict[str, Any] | None = None) -> None:
        self.net = net.eval().requires_grad_(False)
        self.codes = tuple(codes)
        self.facts = facts or {}

    @classmethod
    def load(cls, folder: Path | None = None) -> Judge:
        """The shipped judge, or the one that ``frolic eval train-judge`` wrote to ``folder``.

        Raises FileError when it is missing and CheckpointError when its weights are truncated or foreign.
        """
        where = Path(str(resources.files("frolic").joinpath("eval/judge"))) if folder is None else folder
        try:
            facts = json.loads((where / "judge.json").read_text("utf-8"))
            state = load_file(where / "judge.safetensors")
        except OSError as error:
            raise FileError(f"Make a judge with `frolic eval train-judge --out {where}`: none is there.") from error
        except (ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"Make the judge again with `frolic eval train-judge --out {where}`: {error}."
            ) from error
        net = JudgeNet(len(facts["codes"]))
        try:
            net.load_state_dict({name: value.float() for name, value in state.items()})
        except RuntimeError as error:
            raise CheckpointError(
                f"Make the judge again with `frolic eval train-judge --out {where}`: {error}."
            ) from error
        return cls(net, facts["codes"], facts)

    def names(self) -> dict[str, str]:
        """``code -> name`` of every concept (the code itself where no name is known)."""
        return dict(zip(self.codes, self.facts.get("names", self.codes), strict=True))

    @torch.no_grad()
    def logits(self, x_B3HW: Tensor) -> Tensor:
        """[B, concepts] for pictures in [-1, 1] of any size (averaged down to 64 pixels)."""
        return self.net(shrink(x_B3HW.float()))

    def judge(self, x_B3HW: Tensor) -> list[Verdict]:
        """One verdict a picture."""
        best = self.logits(x_B3HW).softmax(-1).topk(min(5, len(self.codes)))
        return [
            Verdict(self.codes[row[0]], chance[0], tuple(self.codes[index] for index in row))
            for row, chance in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def shrink(x_BCHW: Tensor) -> Tensor:
    """Pictures of any size to the judge's 64 x 64 by averaging (antialiased when the ratio is not whole)."""
    if x_BCHW.shape[-1] == x_BCHW.shape[-2] and x_BCHW.shape[-1] % SIDE == 0:
        return F.avg_pool2d(x_BCHW, x_BCHW.shape[-1] // SIDE)
    return F.interpolate(x_BCHW, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
