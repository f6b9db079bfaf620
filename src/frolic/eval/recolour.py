"""Another hue for a cut-out, and the way back: hue, saturation and value, all in [0, 1].

B batch, H/W side of a cut-out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from frolic.eval.dice import Dice

TARGETS: dict[str, tuple[float, float, float, float]] = {
    "red": (0.0, 0.03, 0.75, 0.85),
    "orange": (0.08, 0.018, 0.8, 0.95),
    "yellow": (0.138, 0.015, 0.75, 0.97),
    "green": (0.35, 0.06, 0.6, 0.68),
    "teal": (0.49, 0.025, 0.65, 0.68),
    "blue": (0.605, 0.035, 0.7, 0.88),
    "purple": (0.75, 0.03, 0.55, 0.8),
    "pink": (0.925, 0.03, 0.4, 0.95),
    "brown": (0.065, 0.02, 0.55, 0.5),
    "black": (0.65, 0.3, 0.08, 0.22),
    "gray": (0.6, 0.3, 0.06, 0.62),
    "white": (0.6, 0.4, 0.03, 0.95),
}
"""What each colour word asks for: hue and how far it may be off, saturation, value."""
COLOURS = tuple(TARGETS)
_NEAR, _FAR = 0.1, 0.16


def to_hsv(rgb_B3HW: Tensor) -> Tensor:
    """[B, 3, H, W] in [0, 1] to hue, saturation, value."""
    value, which = rgb_B3HW.max(1)
    chroma = value - rgb_B3HW.amin(1)
    red, green, blue = rgb_B3HW.unbind(1)
    safe = chroma.clamp(min=1e-6)
    hue = torch.where(
        which == 0,
        ((green - blue) / safe) % 6,
        torch.where(which == 1, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return torch.stack([hue / 6 % 1, chroma / value.clamp(min=1e-6), value], 1)


def to_rgb(hsv_B3HW: Tensor) -> Tensor:
    """The reverse of ``to_hsv``."""
    hue, saturation, value = hsv_B3HW.unbind(1)
    parts = []
    for shift in (5, 3, 1):
        k = (hue * 6 + shift) % 6
        parts.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(parts, 1)


def dominant_hue(cut_B4HW: Tensor) -> Tensor:
    """[B]: the most common hue of premultiplied cut-outs, weighted by saturation, value and alpha."""
    alpha = cut_B4HW[:, 3:]
    hue, saturation, value = to_hsv(cut_B4HW[:, :3] / alpha.clamp(min=1e-3)).clamp(0, 1).unbind(1)
    weight = (saturation * value * alpha[:, 0]).flatten(1)
    bins = (hue.flatten(1) * 36).long().clamp(max=35)
    counts = torch.zeros(len(cut_B4HW), 36).scatter_add_(1, bins, weight)
    counts = counts + 0.6 * (counts.roll(1, 1) + counts.roll(-1, 1))
    return (counts.argmax(1) + 0.5) / 36


def recolour(cut_B4HW: Tensor, hue_B: Tensor, colour_B: Tensor, dice: Dice) -> Tensor:
    """Premultiplied cut-outs whose pixels near ``hue_B`` take the colour ``COLOURS[colour_B]``, shading kept."""
    target = torch.tensor(list(TARGETS.values()))[colour_B]
    count = len(cut_B4HW)
    hue = target[:, 0] + target[:, 1] * dice.uniform(count, low=-1.0, high=1.0)
    saturation = target[:, 2] * dice.uniform(count, low=0.85, high=1.15)
    value = target[:, 3] * dice.uniform(count, low=0.9, high=1.08)
    alpha = cut_B4HW[:, 3:]
    rgb = (cut_B4HW[:, :3] / alpha.clamp(min=1e-3)).clamp(0, 1)
    hsv = to_hsv(rgb)
    gap = (hsv[:, 0] - hue_B[:, None, None] + 0.5) % 1 - 0.5
    mask = ((_FAR - gap.abs()) / (_FAR - _NEAR)).clamp(0, 1) * ((hsv[:, 1] - 0.12) / 0.15).clamp(0, 1)
    weight = (mask * alpha[:, 0]).sum((1, 2)).clamp(min=1e-3)
    means = (hsv[:, 1:] * (mask * alpha[:, 0])[:, None]).sum((2, 3)) / weight[:, None]
    means = means.clamp(min=0.05)
    changed = torch.stack(
        [
            (hue[:, None, None] + 0.4 * gap) % 1,
            (hsv[:, 1] * (saturation / means[:, 0])[:, None, None]).clamp(0, 1),
            (hsv[:, 2] * (value / means[:, 1])[:, None, None]).clamp(0, 1),
        ],
        1,
    )
    return torch.cat([torch.lerp(rgb, to_rgb(changed), mask[:, None]) * alpha, alpha], 1)
