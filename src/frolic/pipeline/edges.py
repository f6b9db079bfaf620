"""What a ControlNet is led by, made of a picture: its edges as white lines on black.

B batch, C channels, H/W height and width in pixels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.errors import RequestError, nearest
from frolic.io.safetensors import fill
from frolic.pipeline.inputs import Inputs

if TYPE_CHECKING:
    from frolic.models.hed import HED
    from frolic.pipeline.inputs import Picture

KINDS = ("edges", "hed:FILE", "scribble:FILE")
"""What ``control_picture`` makes."""

VERSION = 1
"""Of ``soft_edges``: what was kept of another version's pictures is made again."""

_SIDE = 1024
_HED_SIDE = 512
_FAINT, _CLEAR = 0.03, 0.15


def control_picture(picture: Picture, kind: str) -> Tensor:
    """What ``picture`` (a path, a PIL picture or a tensor [3, H, W]) becomes to lead: [3, H, W] in [-1, 1], its size.

    ``edges``: ``soft_edges``, which needs no weights. ``hed:FILE``: the soft map of the edge network whose weights
    are in ``FILE``, ``ControlNetHED`` as safetensors. ``scribble:FILE``: the same made into ``lines``, which the
    published SANA ControlNets were trained with.

    Raises:
        RequestError: the kind is unknown, or there is no picture.
        FileError: the picture cannot be read.
        CheckpointError, UnsafeFileError, ModelNotFoundError: the weights cannot be used.
    """
    detector, _, weights = kind.partition(":")
    known = [one.partition(":")[0] for one in KINDS]
    if detector not in known:
        raise RequestError(
            f"No control picture is called {detector!r}{nearest(detector, known)}; known: {', '.join(KINDS)}."
        )
    if bool(weights) == (detector == "edges"):
        raise RequestError(f"{kind!r} is not a kind of control picture; give {KINDS[known.index(detector)]}.")
    pixels = Inputs(control=picture).read().control
    if pixels is None:
        raise RequestError("There is no picture to find edges in; give one with --control FILE.")
    with torch.inference_mode():
        if detector == "edges":
            found = soft_edges(pixels)
        else:
            found = _hed_map(load_hed(Path(weights).expanduser()), pixels, as_lines=detector == "scribble")
    return as_picture(found)[0].clone()


def as_picture(edges_B1HW: Tensor) -> Tensor:
    """Edges in [0, 1] as grey pixels [B, 3, H, W] in [-1, 1], of the 256 levels that a file holds: what another machine
    rounds in another way is the same picture."""
    return ((edges_B1HW * 255).round() / 127.5 - 1).expand(-1, 3, -1, -1)


def soft_edges(pixels_B3HW: Tensor) -> Tensor:
    """Edges [B, 1, H, W] in [0, 1] of pictures in [-1, 1], by arithmetic alone.

    The gradient of all colours together (Di Zenzo 1986) at a scale that follows the picture's size, thinned to its
    ridges (Canny 1986). What is crossed by other edges all around counts less (after Grigorescu et al. 2003), so that
    grass and fur do not drown the outlines. Lines are as wide in the picture whatever its size, and as bright as the
    edge is clear: black below 3 % of the range from black to white, white from 15 % on.
    """
    height, width = pixels_B3HW.shape[-2:]
    ratio = min(1.0, _SIDE / min(height, width))
    size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    small = pixels_B3HW.float() / 2
    if ratio < 1:
        small = F.interpolate(small, size=size, mode="bilinear", antialias=True, align_corners=False)
    scale = max(0.8, min(size) / 512)
    contrast, across = _gradient(blur(small, scale))
    # A step of height c, blurred by a Gaussian of deviation s, is nowhere steeper than c / (s sqrt(2 pi)); half a pixel
    # more stands for the step's own width.
    contrast = contrast * math.sqrt(math.tau * (scale**2 + 0.25))
    texture = blur(contrast, 8 * scale)
    clear = ((contrast - 0.5 * texture - _FAINT) / (_CLEAR - _FAINT)).clamp(0, 1)
    thin = clear * _is_ridge(contrast, across)
    lines = draw_lines(thin, max(0.7, min(size) / 400))
    if ratio < 1:
        lines = F.interpolate(lines, size=(height, width), mode="bilinear", align_corners=False)
    return lines.clamp(0, 1)


def blur(x_BCHW: Tensor, deviation: float) -> Tensor:
    """A Gaussian of ``deviation`` pixels; beyond the border lies the border."""
    radius = math.ceil(3 * deviation)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x_BCHW.device) / deviation) ** 2)
    taps = (taps / taps.sum()).to(x_BCHW.dtype)
    channels = x_BCHW.shape[1]
    for shape, pad in (((1, -1), (radius, radius, 0, 0)), ((-1, 1), (0, 0, radius, radius))):
        kernel = taps.view(1, 1, *shape).expand(channels, 1, -1, -1)
        x_BCHW = F.conv2d(F.pad(x_BCHW, pad, mode="replicate"), kernel, groups=channels)
    return x_BCHW


def draw_lines(thin_B1HW: Tensor, deviation: float) -> Tensor:
    """Lines one pixel wide, drawn with a soft pen: a straight one keeps its brightness in its middle."""
    return blur(thin_B1HW, deviation) * (deviation * math.sqrt(math.tau))


def _gradient(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """How steep the steepest way is [B, 1, H, W], all channels together, and the unit vector along it [B, 2, H, W]."""
    x = F.pad(x_BCHW, (1, 1, 1, 1), mode="replicate")
    dx, dy = (x[..., 1:-1, 2:] - x[..., 1:-1, :-2]) / 2, (x[..., 2:, 1:-1] - x[..., :-2, 1:-1]) / 2
    xx, yy, xy = ((a * b).sum(dim=1, keepdim=True) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    strength = ((xx + yy + torch.hypot(xx - yy, 2 * xy)) / 2).clamp_min(0)
    angle = torch.atan2(2 * xy, xx - yy) / 2
    # Three channels that change alike are one edge of that height.
    return (strength / x_BCHW.shape[1]).sqrt(), torch.cat([angle.cos(), angle.sin()], dim=1)


def _is_ridge(x_B1HW: Tensor, across_B2HW: Tensor) -> Tensor:
    """1 where ``x`` is not less than a pixel away to both sides, along ``across``, and 0 elsewhere."""
    height, width = x_B1HW.shape[-2:]
    rows = torch.arange(height, device=x_B1HW.device, dtype=x_B1HW.dtype)[:, None].expand(height, width)
    columns = torch.arange(width, device=x_B1HW.device, dtype=x_B1HW.dtype)[None].expand(height, width)
    sides = []
    for sign in (1, -1):
        to_x = (columns + sign * across_B2HW[:, 0] + 0.5) * 2 / width - 1
        to_y = (rows + sign * across_B2HW[:, 1] + 0.5) * 2 / height - 1
        grid = torch.stack([to_x, to_y], dim=-1)
        sides.append(F.grid_sample(x_B1HW, grid, mode="bilinear", padding_mode="border", align_corners=False))
    # A step between two pixels is equally steep on both: one side has to give way.
    return ((x_B1HW >= sides[0]) & (x_B1HW > sides[1])).to(x_B1HW.dtype)


def load_hed(path: Path) -> HED:
    """The edge network with the weights in ``path``, safetensors under the names of ``ControlNetHED.pth``.

    Raises:
        CheckpointError: listing all that is missing, foreign, misshapen or not finite.
        UnsafeFileError: it is the pickle.
    """
    from frolic.models.hed import HED, published_keys

    net = HED()
    fill(net, path, published_keys(), fault="does not hold the edge network; give ControlNetHED as safetensors")
    return net.requires_grad_(False).eval()


def _hed_map(net: HED, pixels_B3HW: Tensor, *, as_lines: bool) -> Tensor:
    """What the network sees at the size it was made for, its sides multiples of 64, brought back to the picture's."""
    height, width = pixels_B3HW.shape[-2:]
    ratio = _HED_SIDE / min(height, width)
    size = tuple(max(64, round(side * ratio / 64) * 64) for side in (height, width))
    small = F.interpolate(pixels_B3HW, size=size, mode="bilinear", antialias=True, align_corners=False)
    found = net((small.clamp(-1, 1) + 1) * 127.5)
    if as_lines:
        found = lines(found)
    return F.interpolate(found, size=(height, width), mode="bilinear", align_corners=False).clamp(0, 1)


def lines(edges_B1HW: Tensor) -> Tensor:
    """A soft map as white lines on black, of about twelve pixels at a side of 512: what SANA's authors draw (their
    ``sketch_thickness=2``). Ridges in any of four directions, of the map blurred by three pixels, where it is above
    one half; blurred again and cut at what rounds to more than 4/255."""
    soft = blur(edges_B1HW, 3.0)
    padded = F.pad(soft, (1, 1, 1, 1), mode="replicate")

    def shifted(dy: int, dx: int) -> Tensor:
        return padded[..., 1 + dy : 1 + dy + soft.shape[-2], 1 + dx : 1 + dx + soft.shape[-1]]

    ridge = torch.zeros_like(soft, dtype=torch.bool)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        ridge |= (soft >= shifted(dy, dx)) & (soft >= shifted(-dy, -dx))
    return (blur((ridge & (soft > 127 / 255)).to(soft), 3.0) > 4.5 / 255).to(soft)
