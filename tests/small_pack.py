"""A tiny training set with something for every kind of scene."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from frolic.data.starter.concepts import Concept
from frolic.data.starter.pack import write

_NOUNS = ("cup", "kite", "drum", "candle", "ladder", "spoon", "tent", "lamp")


def small_concepts() -> list[Concept]:
    """Concepts whose pictures' rows are not their own numbers; one is for no scene, one of each three has a colour."""
    count = len(_NOUNS)
    placed = [
        Concept(
            code=f"0{number}",
            name=noun,
            group="objects",
            captions=(f"a {noun}", f"a picture of a {noun}"),
            keywords=(noun,),
            everyday=number == 0,
            noun=noun,
            plural=f"{noun}s",
            colour="red" if number % 3 == 0 else "",
            row=count - number,
            styles={"flat": count + 1} if number == 1 else {},
        )
        for number, noun in enumerate(_NOUNS)
    ]
    return [*placed, Concept("09", "grinning face", "faces", ("a grinning face",), row=0)]


def small_sprites(side: int = 32) -> Tensor:
    """uint8 [10, 4, side, side]: noise under a disc of full alpha."""
    generator = torch.Generator().manual_seed(0)
    sprites = torch.randint(0, 256, (len(_NOUNS) + 2, 4, side, side), dtype=torch.uint8, generator=generator)
    across = torch.linspace(-1, 1, side)
    sprites[:, 3] = ((across**2 + across[:, None] ** 2) < 0.8) * 255
    return sprites


def write_small_pack(folder: Path) -> Path:
    """Write the pack to ``folder`` and return it."""
    write(folder, small_sprites(), small_concepts(), {})
    return folder
