"""Small pictures with a hidden rule, and choices that follow it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor


def pictures(count: int, seed: int, side: int = 32) -> Tensor:
    """uint8 [count, side, side, 3]: a disc of one colour on another, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    across = torch.linspace(-1, 1, side)
    ground, disc = torch.rand(2, count, 1, 1, 3, generator=generator)
    x, y, radius = torch.rand(3, count, 1, 1, generator=generator)
    inside = (across - x + 0.5) ** 2 + (across[:, None] - y + 0.5) ** 2 < (0.2 + 0.6 * radius) ** 2
    made = torch.where(inside[..., None], disc, ground)
    made = made + 0.05 * torch.randn(made.shape, generator=generator)
    return (made.clamp(0, 1) * 255).round().to(torch.uint8)


def redness(made: Tensor) -> Tensor:
    """The hidden rule: [count], of pictures [count, ..., 3]."""
    means = made.float().flatten(1, -2).mean(dim=1)
    return means[:, 0] - means[:, 1:].mean(dim=1)


def write_pairs(folder: Path, count: int, seed: int = 0, ties: int = 0) -> Path:
    """``count`` pairs of PNGs and the choices that the rule makes; the first ``ties`` are called equal."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pictures(2 * count, seed)
    better = redness(made)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        names = [f"{seed}-{number}-{side}.png" for side in ("a", "b")]
        for name, each in zip(names, made[2 * number : 2 * number + 2], strict=True):
            Image.fromarray(each.numpy()).save(folder / name)
        choice = "left" if better[2 * number] > better[2 * number + 1] else "right"
        row = {"prompt": f"a disc {number % 3}", "left": names[0], "right": names[1]}
        rows.append({**row, "choice": "equal" if number < ties else choice})
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
