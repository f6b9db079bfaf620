from __future__ import annotations

import pytest
import torch
from torch import Tensor

COLOURS = {"red": (230, 30, 30), "green": (30, 190, 60), "blue": (40, 70, 230)}


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
