from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from frolic.data.starter import pack
from frolic.data.starter.concepts import Concept
from frolic.eval.judge import Judge
from frolic.eval.suites import Known
from frolic.eval.train_judge import train_judge
from frolic.eval.training import Recipe
from frolic.eval.truth import known

COLOURS = {"red": (230, 30, 30), "green": (30, 190, 60), "blue": (40, 70, 230)}
NAMES = ("red ball", "red bar", "green ball", "green bar", "blue ball", "blue bar")
RECIPES = {
    "classifier": Recipe(steps=90, batch=24, rate=4e-3),
    "finish": Recipe(steps=5, batch=24, rate=1e-3, turning=0.02),
    "style": Recipe(steps=10, batch=24, rate=1e-3),
    "detector": Recipe(steps=70, batch=16, rate=4e-3),
}


@pytest.fixture(scope="session")
def shapes() -> Tensor:
    """Six cut-outs, uint8 [6, 4, 160, 160]: a disc and a bar in three colours."""
    ramp = torch.linspace(-1, 1, 160)
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    masks = [x**2 + y**2 < 0.7, (x.abs() < 0.2) & (y.abs() < 0.9)]
    cuts = []
    for colour in COLOURS.values():
        for mask in masks:
            flat = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 160, 160)
            cuts.append(torch.cat([flat, mask[None].to(torch.uint8) * 255]))
    return torch.stack(cuts)


@pytest.fixture(scope="session")
def shape_concepts() -> list[Concept]:
    """The concepts of ``shapes``, all of them fit for scenes."""
    return [
        Concept(
            code=f"c{row}",
            name=name,
            group="g",
            captions=(f"a {name}",),
            everyday=True,
            noun=name,
            plural=f"{name}s",
            row=row,
        )
        for row, name in enumerate(NAMES)
    ]


@pytest.fixture(scope="session")
def shape_pack(shapes: Tensor, shape_concepts: list[Concept], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "pack"
    pack.write(folder, shapes, shape_concepts, {})
    return folder


@pytest.fixture(scope="session")
def judge_folder(shape_pack: Path) -> Path:
    """A judge of the six shapes, trained through the whole path and written."""
    out = shape_pack.parent / "judge"
    assert train_judge(shape_pack, out, recipes=RECIPES, limit=12) is not None
    return out


@pytest.fixture(scope="session")
def shape_judge(judge_folder: Path) -> Judge:
    return Judge.load(judge_folder)


def everyday(count: int) -> list[Known]:
    """Concepts that any suite can ask for."""
    words = ("cat", "dog", "ox", "car", "tree", "apple", "umbrella", "hourglass", "boat", "drum", "kite", "lamp")
    return [
        Known(
            code=f"k{index}",
            name=f"{words[index % 12]} {index}",
            caption=f"a {words[index % 12]}{chr(97 + index // 12)}",
            noun=f"{words[index % 12]}{chr(97 + index // 12)}",
            plural=f"{words[index % 12]}{chr(97 + index // 12)}s",
            colour="red" if index % 3 == 0 else "",
            everyday=True,
            styles=("flat", "noto"),
        )
        for index in range(count)
    ]


@pytest.fixture(scope="session")
def many() -> Sequence[Known]:
    return everyday(60)


@pytest.fixture(scope="session")
def shape_known(shape_concepts: list[Concept]) -> list[Known]:
    return [known(concept) for concept in shape_concepts]
