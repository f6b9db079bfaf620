"""The judge: a detector that finds the things in a picture and a classifier that names each.

Both have seen real renders only (never a generated picture) and share no weight, no rendering and no augmentation
with the model that they judge.

B batch, H/W sides of a picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from frolic.eval import detector
from frolic.eval.classifier import SIDE, STYLES, ClassifierNet, shrink
from frolic.eval.colours import ground_colour, thing_colour
from frolic.eval.grounds import SCENIC
from frolic.eval.layouts import Box
from frolic.eval.stored import unpacked
from frolic.eval.suites import Known

FORMAT = 3
FILES = ("classifier.safetensors", "detector.safetensors")
MARGIN = 1.2
"""How much larger than the larger side of its box the square is that a thing is named from."""


@dataclass(frozen=True)
class Named:
    """What the classifier sees in a square: logarithms of all concepts' probabilities [concepts], and a style."""

    chances: Tensor
    style: str


@dataclass(frozen=True)
class Thing:
    """One thing: where it is (shares of the picture's sides), how sure the detector is, what it is, and its colour
    as measured from its pixels."""

    box: Box
    score: float
    named: Named
    colour: str


@dataclass(frozen=True)
class Sight:
    """What the judge sees: the picture as one thing, the things in it, and the ground: a colour word, and the name of
    a landscape or nothing."""

    whole: Named
    things: tuple[Thing, ...]
    ground: str
    landscape: str


class Judge:
    """Loaded nets and the concepts that they know, in the order of the classifier's logits."""

    def __init__(self, classifier: ClassifierNet, finder: detector.DetectorNet, facts: Mapping[str, Any]) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.finder = finder.eval().requires_grad_(False)
        self.facts = dict(facts)
        self.concepts = tuple(Known.from_json(row) for row in facts["concepts"])
        self.codes = tuple(concept.code for concept in self.concepts)

    @classmethod
    def load(cls, folder: Path | None = None) -> Judge:
        """The shipped judge, or the one that ``frolic eval train-judge`` wrote to ``folder``.

        Raises FileError when it is missing and CheckpointError when its weights are truncated or foreign.
        """
        where = Path(str(resources.files("frolic").joinpath("eval/judge"))) if folder is None else folder
        again = f"`frolic eval train-judge --out {where}`"
        try:
            facts = json.loads((where / "judge.json").read_text("utf-8"))
            states = [unpacked(load_file(where / name)) for name in FILES]
            if facts["format"] != FORMAT:
                raise ValueError("it is of another version")
            judge = cls(ClassifierNet(len(facts["concepts"])), detector.DetectorNet(), facts)
        except OSError as error:
            raise FileError(f"Make a judge with {again}: none is there.") from error
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"Make the judge again with {again}: {error}.") from error
        for net, state in zip((judge.classifier, judge.finder), states, strict=True):
            _fill(net, state, again)
        return judge

    @torch.no_grad()
    def look(self, x_B3HW: Tensor) -> list[Sight]:
        """What is in each picture, given in [-1, 1]; a picture's answer does not depend on the others."""
        x = x_B3HW.float()
        said, named = self.finder(shrink(x, detector.SIDE))
        found = detector.decode(said)
        crops = [crop(x[index], thing.box) for index, things in enumerate(found) for thing in things]
        names = self._name(torch.cat([shrink(x), *crops]))
        wholes, rest = names[: len(x)], iter(names[len(x) :])
        sights = []
        for index, things in enumerate(found):
            seen = []
            for thing in things:
                name = next(rest)
                seen.append(Thing(thing.box, thing.score, name, thing_colour(x[index], thing.box)))
            label = int(named[index].argmax())
            landscape = SCENIC[label - 1] if label else ""
            sights.append(Sight(wholes[index], tuple(seen), ground_colour(x[index]), landscape))
        return sights

    def _name(self, squares: Tensor) -> list[Named]:
        rows = []
        for part in squares.split(64):
            said = self.classifier(part)
            chances = said.concept.log_softmax(-1)
            styles = said.style.argmax(-1).tolist()
            rows += [Named(each, STYLES[style]) for each, style in zip(chances, styles, strict=True)]
        return rows

    def best(self, chances: Tensor, count: int = 5) -> tuple[str, ...]:
        """The codes of the likeliest concepts, likeliest first."""
        return tuple(self.codes[index] for index in chances.topk(min(count, len(self.codes))).indices.tolist())


def crop(x_3HW: Tensor, box: Box, margin: float = MARGIN) -> Tensor:
    """[1, 3, 64, 64]: the square around ``box``, with the picture's rim repeated where it reaches out of it."""
    _, height, width = x_3HW.shape
    left, top, right, bottom = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    side = max(4, round(max(right - left, bottom - top) * margin))
    x0, y0 = round((left + right - side) / 2), round((top + bottom - side) / 2)
    columns = torch.arange(x0, x0 + side).clamp(0, width - 1)
    rows = torch.arange(y0, y0 + side).clamp(0, height - 1)
    square = x_3HW[:, rows][:, :, columns][None]
    return F.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def _fill(net: nn.Module, state: Mapping[str, Tensor], again: str) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"Make the judge again with {again}: {error}.") from error
