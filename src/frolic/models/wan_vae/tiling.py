"""Large clips in overlapping tiles, whose borders are blended.

The middle of the autoencoder attends to a whole frame, so a tile is decoded a little otherwise than the frame would be;
the overlap hides that. In time nothing is approximate: every tile goes through frame after frame.

B batch, C channels, T/H/W frames, height and width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from frolic.models.wan_vae.model import WanVAE


def decode_tiled(vae: WanVAE, z_BCthw: Tensor, *, tile: int, overlap: float = 0.25) -> Tensor:
    """As ``WanVAE.decode``, of tiles of ``tile`` pixels a side that overlap by a share of that: ``[B, 3, T, H, W]`` in
    float32 on the CPU.

    One tile goes through all frames before the next: what its layers keep of earlier frames is most of what decoding
    holds, and that of all tiles together would be more than that of the whole.
    """
    stride = vae.config.stride
    rows, columns = (_spans(side, max(1, tile // stride), overlap) for side in z_BCthw.shape[-2:])

    def pixels(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(start * stride, stop * stride) for start, stop in spans]

    def row(top: int, bottom: int) -> Tensor:
        parts = (vae.stream_decode(z_BCthw[..., top:bottom, left:right]) for left, right in columns)
        return _line([torch.cat([each.float().cpu() for each in part], 2) for part in parts], pixels(columns), -1)

    return _line([row(top, bottom) for top, bottom in rows], pixels(rows), -2)


def encode_tiled(vae: WanVAE, x_BCTHW: Tensor, *, tile: int, overlap: float = 0.25) -> Tensor:
    """As ``WanVAE.encode_chunked``, of such tiles."""
    stride = vae.config.stride
    sides = [side // stride for side in x_BCTHW.shape[-2:]]
    spans = [_spans(side, max(1, tile // stride), overlap) for side in sides]
    rows = [
        [
            vae.encode_chunked(x_BCTHW[..., top * stride : bottom * stride, left * stride : right * stride])
            for left, right in spans[1]
        ]
        for top, bottom in spans[0]
    ]
    return _joined(rows, spans)


def _spans(side: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """Evenly spread tiles of one size over ``side``."""
    if tile >= side:
        return [(0, side)]
    step = max(1, round(tile * (1 - overlap)))
    count = math.ceil((side - tile) / step) + 1
    return [(start, start + tile) for start in (round((side - tile) * n / (count - 1)) for n in range(count))]


def _joined(rows: list[list[Tensor]], spans: list[list[tuple[int, int]]]) -> Tensor:
    """Tiles [B, C, T, H, W] laid over each other, each fading in over what is there."""
    joined = [_line(row, spans[1], -1) for row in rows]
    return _line(joined, spans[0], -2)


def _line(parts: list[Tensor], spans: list[tuple[int, int]], axis: int) -> Tensor:
    out, end = parts[0], spans[0][1]
    for part, (start, stop) in zip(parts[1:], spans[1:], strict=True):
        shared = end - start
        fade = (torch.arange(shared, device=part.device, dtype=part.dtype) + 0.5) / max(1, shared)
        fade = fade if axis == -1 else fade[:, None]
        kept, old = out.split([start, shared], dim=axis)
        new, rest = part.split([shared, stop - end], dim=axis)
        out, end = torch.cat([kept, torch.lerp(old, new, fade.expand_as(new)), rest], dim=axis), stop
    return out
