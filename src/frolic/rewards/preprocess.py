"""What a picture goes through before it is judged.

N pictures, H/W their sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def resize(pictures_N3HW: Tensor, side: int, fit: str = "squash", mode: str = "bicubic") -> Tensor:
    """``[N, 3, side, side]`` in [0, 1], antialiased, with gradients, in float32 (float64 stays).

    ``fit``: ``squash`` brings each side to ``side`` by itself; ``crop`` the shorter one, and the middle is taken;
    ``pad`` the longer one, and black is put around. The published rewards differ in it. Antialiasing lets the reward
    see what a viewer of a reduced picture sees: without it, whole rows of pixels would never be looked at, and could
    be anything.
    """
    height, width = pictures_N3HW.shape[-2:]
    if fit == "crop":
        # Rounded down, as the published preprocessing has it.
        short = min(height, width)
        size = (max(side, height * side // short), max(side, width * side // short))
    elif fit == "pad":
        long = max(height, width)
        size = (max(1, round(height * side / long)), max(1, round(width * side / long)))
    else:
        assert fit == "squash"
        size = (side, side)
    x = pictures_N3HW if pictures_N3HW.dtype == torch.float64 else pictures_N3HW.float()
    if size != (height, width):
        x = F.interpolate(x, size=size, mode=mode, antialias=True, align_corners=False).clamp(0, 1)
    if fit == "pad":
        over, beside = side - size[0], side - size[1]
        return F.pad(x, (beside // 2, beside - beside // 2, over // 2, over - over // 2))
    top, left = (x.shape[-2] - side) // 2, (x.shape[-1] - side) // 2
    return x[..., top : top + side, left : left + side]


def normalise(
    pictures_N3HW: Tensor, mean: Sequence[float] = CLIP_MEAN, deviation: Sequence[float] = CLIP_STD
) -> Tensor:
    """``(x - mean) / deviation`` by channel."""
    m, d = (pictures_N3HW.new_tensor(v)[:, None, None] for v in (mean, deviation))
    return (pictures_N3HW - m) / d


def spread(total: int, most: int) -> list[int]:
    """At most ``most`` places of ``total``, evenly spaced; of several the first and the last are among them."""
    if total <= most:
        return list(range(total))
    return [total // 2] if most == 1 else [round(place * (total - 1) / (most - 1)) for place in range(most)]


def disturb(frames_BT3HW: Tensor, generator: torch.Generator, crop: float = 0.1, blur: float = 0.8) -> Tensor:
    """The same clips, each seen a little otherwise: cut by up to ``crop`` of a side, mirrored or not is left alone,
    and half of them blurred by up to ``blur`` pixels. All frames of a clip alike, so that nothing moves by it.

    A pattern that pleases a reward at one place and scale only ("adversarial patches") does not survive it. With
    gradients; all randomness is of ``generator``, on the CPU.
    """
    made = []
    for frames in frames_BT3HW:
        height, width = frames.shape[-2:]
        cut, x, y, blurred, deviation = torch.rand(5, generator=generator).tolist()
        high, wide = (max(1, round(side * (1 - crop * cut))) for side in (height, width))
        top, left = round(y * (height - high)), round(x * (width - wide))
        seen = frames[..., top : top + high, left : left + wide]
        if (high, wide) != (height, width):
            seen = F.interpolate(seen, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
        made.append(gaussian(seen, blur * deviation) if blurred < 0.5 and blur * deviation > 0.1 else seen)
    return torch.stack(made)


def gaussian(pictures_N3HW: Tensor, deviation: float) -> Tensor:
    """Blurred by a Gaussian of ``deviation`` pixels; the border is repeated."""
    reach = max(1, round(3 * deviation))
    place = torch.arange(-reach, reach + 1, device=pictures_N3HW.device, dtype=pictures_N3HW.dtype)
    kernel = torch.exp(-0.5 * (place / deviation) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    x = F.pad(pictures_N3HW, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(x, kernel[:, :, None], groups=3), kernel[..., None], groups=3)
