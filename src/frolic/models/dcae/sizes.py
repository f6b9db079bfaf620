"""How much memory an autoencoder needs beside its weights, from its config alone: what tiles are chosen by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from frolic.models.dcae.config import VIT, DCAEConfig

Side = Literal["encoder", "decoder"]

TILES = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Rows of pixels at a time."""

SPARE = 0.8
"""Of the free memory, what may be planned with: estimates err, and others allocate too."""

_ADDRESSED = 2**31
"""So many numbers a tensor must not have off the CPU: kernels there count them in 32 bits, and some, like CUDA's
nearest upsampling of channels-last tensors, leave zeros beyond and say nothing."""

_CACHED = 16 * 2**20
"""Tensors of this many bytes stay in the cache of a processor, and in the heap of a process: larger ones are mapped
and cleared anew each time, which takes longer than what is done with them."""


@dataclass(frozen=True)
class Cost:
    """One layer. ``inside`` and ``outside`` are the pixels along a side of a position of its input and output.

    At its peak it holds, for every position of the finer of the two, ``plain`` numbers of the model's dtype and
    ``wide`` ones that are float32 where a norm or an attention is computed so. ``held`` numbers a column stay from one
    strip of rows to the next. ``widest``: the numbers of its widest tensor, for a position of the finer of the two.
    """

    inside: int
    outside: int
    widest: float
    plain: float
    wide: float
    held: float = 0.0
    attends: bool = False

    @property
    def at(self) -> int:
        return min(self.inside, self.outside)

    @property
    def row(self) -> float:
        """Numbers for a row of pixels one pixel wide."""
        return (self.plain + self.wide) / self.at**2

    def bytes(self, size: int, wide: int) -> float:
        """Of a pixel, for numbers of ``size`` and ``wide`` bytes."""
        return (self.plain * size + self.wide * wide) / self.at**2


def costs(config: DCAEConfig, side: Side) -> list[Cost]:
    """One for each of the module's ``layers()``."""
    encodes = side == "encoder"
    stages = list(enumerate(config.encoder if encodes else config.decoder))
    at = 1 if encodes else config.stride
    found: list[Cost] = []

    def widest(before: int, channels: int, to: int) -> float:
        """Where a side is doubled, ``before`` channels are there four times, or four times the new ones at first."""
        finer = at if to < at and config.up != "interpolate" else min(at, to)
        return max(before / finer**2, channels / to**2) * min(at, to) ** 2

    def change(before: int, channels: int, to: int) -> None:
        nonlocal at
        found.append(Cost(at, to, widest(before, channels, to), 4.0 * channels, 0.0, 6.0 * channels))
        at = to

    first = stages[0][1].layers > 0
    if encodes:
        change(config.in_channels, stages[0 if first else 1][1].width, 1 if first else 2)
    else:
        stages.reverse()
        change(config.latent_channels, stages[0][1].width, at)
    for i, stage in stages:
        width = stage.width
        changes = i < len(stages) - 1 and stage.layers > 0
        if changes and not encodes:
            change(config.decoder[i + 1].width, width, at // 2)
        for _ in range(stage.layers):
            if stage.kind == VIT:
                scales, reach = 1 + len(stage.kernels), max(stage.kernels, default=1)
                wide = 4.0 * scales * width
                found.append(
                    Cost(at, at, 3 * scales * width, 1 + 5.0 * scales * width, wide, 5.0 * reach * width, attends=True)
                )
                found.append(Cost(at, at, 8 * width, 18.0 * width, 0.0, 17.0 * width))
            else:
                found.append(Cost(at, at, width, (1.5 if encodes else 0.5) * width, 4.0 * width, 6.0 * width))
        if changes and encodes:
            change(width, config.encoder[i + 1].width, at * 2)
    if encodes:
        change(config.encoder[-1].width, config.latent_channels, at)
    else:
        width = config.decoder[0 if first else 1].width
        found.append(Cost(at, 1, widest(width, config.in_channels, 1), 0.5 * width, 4.0 * width, 3.0 * width))
    return found


@dataclass(frozen=True)
class Pass:
    """The layers ``start`` to ``end``. Of ``inside`` rows at a time they make ``outside``."""

    start: int
    end: int
    inside: int
    outside: int


def passes(prices: Sequence[Cost], tile: int) -> Iterator[Pass]:
    """One up to every attention, which needs all of its input before it gives a row. Each takes as many rows at a time
    as cost what ``tile`` rows of pixels cost at full resolution."""
    finest = max(price.row for price in prices if price.at == 1)
    starts = [0, *(i for i, price in enumerate(prices) if price.attends and i), len(prices)]
    for start, end in pairwise(starts):
        before, after = prices[start].inside, prices[end - 1].outside
        coarsest = max(before, after)
        pixels = tile * finest / max(price.row for price in prices[start:end])
        units = max(1, int(pixels / coarsest))
        yield Pass(start, end, units * coarsest // before, units * coarsest // after)


def decode_bytes(
    config: DCAEConfig, height: int, width: int, itemsize: int, tile: int | None, device: str = "cpu"
) -> int:
    """The most that decoding one picture of ``height`` x ``width`` pixels holds at once, its result included: whole
    (``tile`` None) or in strips of ``tile`` rows, in numbers of ``itemsize`` bytes. Counted for tensors: an estimate
    that is right to a third, where it errs mostly too large."""
    return _bytes(config, "decoder", height, width, itemsize, tile, device)


def encode_bytes(
    config: DCAEConfig, height: int, width: int, itemsize: int, tile: int | None, device: str = "cpu"
) -> int:
    """As ``decode_bytes``."""
    return _bytes(config, "encoder", height, width, itemsize, tile, device)


def _bytes(
    config: DCAEConfig, side: Side, height: int, width: int, itemsize: int, tile: int | None, device: str
) -> int:
    size = itemsize
    wide = size if device == "cuda" else 4  # its norms convert inside their kernel
    prices = costs(config, side)
    pixels = config.in_channels * height * width * size if side == "decoder" else 0
    merged = _merged(config, size) if side == "decoder" and device == "cpu" else 0
    if tile is None:
        return int(pixels + merged + height * width * max(price.bytes(size, wide) for price in prices))
    most = 0.0
    for part in passes(prices, tile):
        strips = _strips(prices, part, side, height)
        strip = max(rows * width * price.bytes(size, wide) for price, rows in strips)
        strip += sum(price.held * size * width / price.at for price, _ in strips)
        most = max(most, strip + size * sum(_joints(config, side, prices, part, height, width)))
    return int(pixels + merged + most)


def _strips(prices: Sequence[Cost], part: Pass, side: Side, height: int) -> list[tuple[Cost, int]]:
    """The layers of a pass, and how many rows of pixels each is given at once at most."""
    layers = prices[part.start : part.end]
    coarsest = max(price.at for price in layers)
    rows = max(part.inside * layers[0].inside, 4 * coarsest if len(layers) > 2 else 0)
    # The first strip is longer by what the later layers look ahead, and the last ones have what is left.
    return [(price, min(height, rows + (7 * price.at if side == "decoder" else 5 * coarsest))) for price in layers]


def _joints(config: DCAEConfig, side: Side, prices: Sequence[Cost], part: Pass, height: int, width: int) -> list[float]:
    """The numbers of the whole pictures that a pass reads and makes, but for pixels."""
    sides = {prices[part.start].inside, prices[part.end - 1].outside}
    return [_channels(config, side, at) * height * width / at**2 for at in sides if at > 1]


def largest(config: DCAEConfig, side: Side, height: int, width: int, tile: int | None) -> int:
    """The most numbers of any one tensor for ``height`` x ``width`` pixels, whole or in strips of ``tile`` rows; for
    strips not below it."""
    prices = costs(config, side)
    if tile is None:
        return int(max(height * width * price.widest / price.at**2 for price in prices))
    most = float(config.in_channels * height * width)
    for part in passes(prices, tile):
        strips = (rows * width * price.widest / price.at**2 for price, rows in _strips(prices, part, side, height))
        most = max(most, *strips, *_joints(config, side, prices, part, height, width))
    return int(most)


def _channels(config: DCAEConfig, side: Side, at: int) -> int:
    """Of the stage whose positions are ``at`` pixels along a side."""
    return (config.encoder if side == "encoder" else config.decoder)[at.bit_length() - 1].width


def _merged(config: DCAEConfig, size: int) -> int:
    """What the merged weights of ``Doubling`` and ``unfolding`` take."""
    if config.up != "interpolate" and size < 4:
        return 0
    taps = 16 if config.up == "interpolate" else 4 * 9
    widths = [stage.width for stage in config.decoder if stage.layers]
    return sum(taps * a * b for a, b in pairwise(widths)) * size


def tile_for(
    config: DCAEConfig,
    height: int,
    width: int,
    itemsize: int,
    free: int,
    device: str = "cpu",
    tiling: str = "auto",
    side: Side = "decoder",
) -> int | None:
    """The rows of pixels to compute at a time, where ``free`` bytes are; None is all at once. ``tiling``: "auto" takes
    what fits and is fast, "on" the same but never all at once, "off" all at once if the device can count so many
    numbers. Where even the smallest strips do not fit, it is the smallest."""
    row = (config.decoder if side == "decoder" else config.encoder)[0].width * width * itemsize
    # What is fastest on a processor is what its cache holds; elsewhere it is all at once.
    fast = [t for t in TILES if t == TILES[0] or (t < height and (device != "cpu" or t * row <= _CACHED))]
    whole = tiling == "off" or (tiling == "auto" and (device != "cpu" or height * row <= _CACHED))
    tiles: list[int | None] = [*([None] if whole else []), *reversed(fast)]
    if device != "cpu":
        tiles = [tile for tile in tiles if largest(config, side, height, width, tile) < _ADDRESSED]
    if tiling == "off" and None in tiles:
        return None
    budget = int(SPARE * free)
    fitting = (tile for tile in tiles if _bytes(config, side, height, width, itemsize, tile, device) <= budget)
    return next(fitting, TILES[0])


def decode_flops(config: DCAEConfig, height: int, width: int) -> float:
    """Floating-point operations of decoding ``height`` x ``width`` pixels."""
    stages = [stage for stage in config.decoder if stage.layers]
    at = config.stride
    total = 9.0 * config.latent_channels * config.decoder[-1].width / at**2
    for deeper, stage in zip([None, *reversed(stages)], reversed(stages), strict=False):
        c = stage.width
        if deeper is not None:
            at //= 2
            total += 9.0 * deeper.width * c / at**2
        if stage.kind == VIT:
            scales = 1 + len(stage.kernels)
            depthwise = sum(3 * kernel**2 * c + 3 * c * config.head_dim for kernel in stage.kernels)
            attention = (3 + scales) * c * c + depthwise + 2 * scales * c * config.head_dim
            block = attention + 12 * c * c + 72 * c
        else:
            block = 18 * c * c
        total += stage.layers * block / at**2
    total += 9.0 * stages[0].width * config.in_channels
    return 2 * total * height * width
