"""Pictures of a new thing beside things that a model knows, put together from cut-outs, with captions that are true.

H/W sides of a picture, S side of a square one, h/w sides of a cut-out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.data.starter.captions import with_article

_NEAR = 0.06  # how far from the ground's colour a pixel of it may be
_PLAIN = 0.9  # the share of the rim that must be of one colour
_GROUNDS = (
    (1.0, 1.0, 1.0),
    (0.9, 0.9, 0.9),
    (0.8, 0.88, 0.97),
    (0.97, 0.92, 0.75),
    (0.85, 0.95, 0.85),
    (0.6, 0.6, 0.6),
)


@dataclass(frozen=True)
class Place:
    """``caption`` with the new thing and another, and where the new one is: the middle of its half, from (0, 0) at the
    top left to (1, 1)."""

    caption: str
    at: tuple[float, float]


PLACES = (
    Place("{new} next to {other}", (0.27, 0.5)),
    Place("{other} next to {new}", (0.73, 0.5)),
    Place("{new} and {other}", (0.27, 0.5)),
    Place("{other} and {new}", (0.73, 0.5)),
    Place("{new} to the left of {other}", (0.27, 0.5)),
    Place("{other} to the left of {new}", (0.73, 0.5)),
    Place("{new} to the right of {other}", (0.73, 0.5)),
    Place("{new} above {other}", (0.5, 0.27)),
    Place("{other} above {new}", (0.5, 0.73)),
    Place("{new} below {other}", (0.5, 0.73)),
)


def reached(open_HW: Tensor) -> Tensor:
    """What of ``open`` is reached through it from the picture's rim."""
    found = torch.zeros_like(open_HW)
    found[0], found[-1], found[:, 0], found[:, -1] = open_HW[0], open_HW[-1], open_HW[:, 0], open_HW[:, -1]
    before = -1
    while int(found.sum()) != before:
        before = int(found.sum())
        for _ in range(8):
            found = (F.max_pool2d(found[None].float(), 3, 1, 1)[0] > 0) & open_HW
    return found


def cut_out(picture: Tensor) -> Tensor | None:
    """[4, h, w], the thing in ``picture`` [3 or 4, H, W] in [0, 1], premultiplied and cut to its size: by the picture's
    transparency, or else by its ground, if that is of one colour. None where there is nothing to cut out by."""
    colour = picture[:3]
    if len(picture) == 4 and float(picture[3].min()) < 0.5:
        alpha = picture[3]
    else:
        rim = torch.cat([colour[:, 0], colour[:, -1], colour[:, :, 0], colour[:, :, -1]], dim=1)
        ground = rim.median(dim=1).values
        if float(((rim - ground[:, None]).abs().amax(0) < _NEAR).float().mean()) < _PLAIN:
            return None
        thing = ~reached((colour - ground[:, None, None]).abs().amax(0) < _NEAR)
        # The outermost pixels are half ground; what is left has a soft edge.
        inner = -F.max_pool2d(-thing[None].float(), 3, 1, 1)
        alpha = F.avg_pool2d(inner, 3, 1, 1, count_include_pad=False)[0] * inner[0]
    rows, columns = (alpha.amax(axis) > 0.5 for axis in (1, 0))
    if not bool(rows.any()):
        return None
    top, bottom = (int(rows.nonzero()[end]) for end in (0, -1))
    left, right = (int(columns.nonzero()[end]) for end in (0, -1))
    return torch.cat([colour * alpha, alpha[None]])[:, top : bottom + 1, left : right + 1]


def beside(new: Tensor, other: Tensor, place: Place, side: int, generator: torch.Generator) -> Tensor:
    """[3, S, S] in [0, 1]: two cut-outs on a plain ground, the new one at its place and the other one opposite."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    ground = torch.tensor(_GROUNDS[int(torch.randint(len(_GROUNDS), (), generator=generator))])
    canvas = ground[:, None, None].expand(3, side, side).clone()
    x, y = place.at
    for cut, (across, down) in ((other, (1 - x, 1 - y)), (new, (x, y))):
        longest = between(0.43, 0.49) * side
        scale = longest / max(cut.shape[1:])
        size = [max(1, round(length * scale)) for length in cut.shape[1:]]
        small = F.interpolate(cut[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        middle = (side * (down + between(-0.02, 0.02)), side * (across + between(-0.02, 0.02)))
        top, left = (
            min(max(0, round(centre - length / 2)), side - length) for centre, length in zip(middle, size, strict=True)
        )
        spot = canvas[:, top : top + size[0], left : left + size[1]]
        spot.copy_(small[:3] + (1 - small[3:]) * spot)
    return canvas


def put_together(
    new: Sequence[Tensor], word: str, others: Sequence[tuple[str, Tensor]], count: int, side: int, seed: int = 0
) -> tuple[Tensor, list[str]]:
    """``count`` pictures [N, 3, S, S] in [0, 1] of the thing that ``word`` means, whose cut-outs are ``new``, beside
    ``others`` (what each is called, and its cut-out); and their captions. Each new and each other one comes equally
    often, and every place."""
    generator = torch.Generator().manual_seed(seed)
    pictures, captions = [], []
    for number in range(count):
        turn, which = divmod(number, len(others))
        name, other = others[which]
        place = PLACES[(turn + which) % len(PLACES)]
        pictures.append(beside(new[number % len(new)], other, place, side, generator))
        captions.append(place.caption.format(new=with_article(word), other=name))
    return torch.stack(pictures), captions
