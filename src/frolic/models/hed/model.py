"""Holistically-nested edge detection (Xie & Tu 2015, arXiv 1504.06375), as the ControlNet authors trained it anew.

VGG-16's convolutions in five blocks, each of which says at its own scale where edges are.

B batch, H/W height and width in pixels, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.keymap import KeyMap, Rule

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = (2, 2, 3, 3, 3)


class EdgeBlock(nn.Module):
    """Convolutions, and what they say of edges.  ``[B, C, H, W] -> [B, width, H, W], [B, 1, H, W]``."""

    def __init__(self, channels: int, width: int, count: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width if i else channels, width, 3, padding=1) for i in range(count))
        self.side = nn.Conv2d(width, 1, 1)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.convs:
            x_BCHW = F.relu(conv(x_BCHW))
        return x_BCHW, self.side(x_BCHW)


class HED(nn.Module):
    """Colours [B, 3, H, W] in [0, 255] to how likely each pixel lies on an edge, [B, 1, H, W]. Sides are at least 16.

    The mean of the five logits, each brought to the picture's size; there is no trained weight for each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1, 3, 1, 1))
        inputs = (3, *WIDTHS)
        self.blocks = nn.ModuleList(EdgeBlock(inputs[i], WIDTHS[i], CONVOLUTIONS[i]) for i in range(len(WIDTHS)))

    def forward(self, x_B3HW: Tensor) -> Tensor:
        x, total = x_B3HW - self.mean, torch.zeros_like(x_B3HW[:, :1])
        for index, block in enumerate(self.blocks):
            x, side = block(F.max_pool2d(x, 2) if index else x)
            total = total + F.interpolate(side, size=x_B3HW.shape[-2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(total / len(self.blocks))


def published_keys() -> KeyMap:
    """From the names in ``ControlNetHED.pth``."""
    rules = [Rule.of("norm", "mean")]
    for index in range(len(WIDTHS)):
        for kind in ("weight", "bias"):
            rules.append(Rule.of(f"block{index + 1}.convs.{{i}}.{kind}", f"blocks.{index}.convs.{{i}}.{kind}"))
            rules.append(Rule.of(f"block{index + 1}.projection.{kind}", f"blocks.{index}.side.{kind}"))
    return KeyMap(rules)
