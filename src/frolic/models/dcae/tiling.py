"""Decoding and encoding in strips of rows: the same picture as in one piece, with a small part of the memory.

An autoencoder is convolutions, which read a few rows up and down; norms and gates, which read one position; and ReLU
attention, whose positions read of each other only a small sum (``MultiScaleAttention.summary``). So the rows of a
picture stream through the layers: a convolution keeps the last rows it saw for the next strip, and an attention first
sums over all strips and then reads them again. Nothing is computed twice but queries, keys and values, and nothing is
guessed of what lies beyond an edge: there are no seams to blend. Whole pictures exist only at the resolution of the
attentions, an eighth of the pixels' in SANA's.

Strips run over the whole width, and this is for inference: tensors that hold whole pictures are written in place.
B batch, C channels, H/W height and width, G groups of q, k, v, L positions, K head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.dcae.local import Doubling, Local, Step, apart, doubled, folded, unfolded
from frolic.models.dcae.model import DCAE, Layer, LocalScale, MultiScaleAttention
from frolic.models.dcae.sizes import Cost, costs, passes


def decode_tiled(vae: DCAE, z: Tensor, *, tile: int) -> Tensor:
    """``vae.decode(z)`` to rounding, about ``tile`` rows of pixels at a time; low resolutions get as much memory."""
    return _run(vae.decoder.layers(), costs(vae.config, "decoder"), z, tile)


def encode_tiled(vae: DCAE, x: Tensor, *, tile: int) -> Tensor:
    """``vae.encode(x)`` to rounding, about ``tile`` rows of pixels at a time."""
    return _run(vae.encoder.layers(), costs(vae.config, "encoder"), x, tile)


def _run(layers: Sequence[Layer], prices: Sequence[Cost], given: Tensor, tile: int) -> Tensor:
    x = given
    for part in passes(prices, tile):
        first, *rest = layers[part.start : part.end]
        groups: list[list[_Part]] = [[]]
        if isinstance(first, Local):
            groups[0].append(_Rows(first))
        elif first.is_small(x.shape[2] * x.shape[3]):
            x = first(x)
        else:
            groups[0].append(_Attention(first, _summary(first, x, part.inside)))
        for layer, price in zip(rest, prices[part.start + 1 : part.end], strict=True):
            assert isinstance(layer, Local)
            if price.inside != price.outside:
                groups.append([])
            groups[-1].append(_Rows(layer))
        height = x.shape[2] * part.outside // part.inside
        x = _filled(x, _stream(groups, x, part.outside), height, reuse=x is not given)
    return x


def _summary(attention: MultiScaleAttention, x: Tensor, rows: int) -> Tensor:
    heads = _Heads(attention)
    parts = (attention.summary(*attention.heads(strip)[1:]) for strip in _stream([[heads]], x, rows))
    total = next(parts)
    for part in parts:
        total += part
    return total


def _filled(source: Tensor, strips: Iterator[Tensor], height: int, reuse: bool) -> Tensor:
    """The strips as one tensor: ``source`` itself where it has the shape, as its rows were read before those of the
    result are written."""
    target, done = None, 0
    for strip in strips:
        if target is None:
            shape = (*strip.shape[:2], height, strip.shape[3])
            target = source if reuse and source.shape == shape else _empty(strip, shape)
        target[:, :, done : done + strip.shape[2]] = strip
        done += strip.shape[2]
        del strip  # while the next is made
    assert target is not None and done == height
    return target


def _empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


class _Part(Protocol):
    """Takes rows from the top down and gives what can be made of them, maybe none; with ``last`` it gives all.

    ``needs``: how many rows it must have been given in all for the first ``rows`` of its result.
    """

    def __call__(self, x: Tensor, last: bool) -> Tensor: ...
    def needs(self, rows: int) -> int: ...


def _stream(groups: Sequence[Sequence[_Part]], x: Tensor, rows: int) -> Iterator[Tensor]:
    """The result of all parts, about ``rows`` at a time.

    What the parts still hold when the input has ended comes out group by group: at once it would be a long strip.
    """
    parts = [part for group in groups for part in group]
    start, made = 0, 0
    ends: list[Tensor] = []
    while start < x.shape[2]:
        made += rows
        needed = made
        for part in reversed(parts):
            needed = part.needs(needed)
        strip, ends = x[:, :, start:needed], []
        for group in groups:
            ends.append(strip.new_empty(*strip.shape[:2], 0, strip.shape[3]))  # a view would hold the strip
            for part in group:
                strip = part(strip, False)
        if strip.shape[2]:
            yield strip
        start = needed
    for number, strip in enumerate(ends):
        for later, group in enumerate(groups[number:]):
            for part in group:
                strip = part(strip, not later)
        if strip.shape[2]:
            yield strip


class _Conv:
    """A convolution. It keeps those last rows that the next strip will look back to."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        self.kernel, self.stride, self.padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
        self.held: Tensor | None = None

    def needs(self, rows: int) -> int:
        return (rows - 1) * self.stride + self.kernel - self.padding

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        conv = self.conv
        if self.kernel > 1:
            x = _with_edges(x, self.held, self.padding, last)
        rows = (x.shape[2] - self.kernel) // self.stride + 1
        if rows < 1:
            self.held = x
            return x.new_empty(x.shape[0], conv.out_channels, 0, x.shape[3] // self.stride)
        self.held = x[:, :, rows * self.stride :].clone()
        x = x[:, :, : (rows - 1) * self.stride + self.kernel]
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, (0, self.padding), conv.dilation, conv.groups)


class _Doubling:
    """The one step that is a convolution and makes two rows of one."""

    def __init__(self, step: Doubling) -> None:
        self.step = step
        self.held: Tensor | None = None

    def needs(self, rows: int) -> int:
        return -(-rows // 2) + 1

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        x = _with_edges(x, self.held, 1, last)
        self.held = x[:, :, -2:].clone()
        if x.shape[2] < 3:
            return x.new_empty(x.shape[0], self.step.weight.shape[1], 0, 2 * x.shape[3])
        return self.step(x, cut=1)


def _with_edges(x: Tensor, held: Tensor | None, padding: int, last: bool) -> Tensor:
    """``x`` below what was held, or below zeros; at the end also above zeros."""
    edge = x.new_zeros(*x.shape[:2], padding, x.shape[3]).contiguous(memory_format=torch.channels_last)
    return torch.cat([edge if held is None else held, x, *([edge] if last else [])], dim=2)


class _Twice:
    """A function that makes two rows of one."""

    def __init__(self, function: Step) -> None:
        self.function = function

    def needs(self, rows: int) -> int:
        return -(-rows // 2)

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        return _of_rows(self.function, x)


class _Half:
    """A function that makes one row of two."""

    def __init__(self, function: Step) -> None:
        self.function = function
        self.held = _Queue()

    def needs(self, rows: int) -> int:
        return 2 * rows

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        self.held.put(x)
        return _of_rows(self.function, self.held.take(self.held.rows // 2 * 2))


def _of_rows(function: Step, x: Tensor) -> Tensor:
    """``function(x)``, also where ``x`` has no rows."""
    if x.shape[2]:
        return function(x)
    return function(x.new_zeros(*x.shape[:2], 2, x.shape[3]))[:, :, :0]


class _Each:
    """A function of one position."""

    def __init__(self, function: Step) -> None:
        self.function = function

    def needs(self, rows: int) -> int:
        return rows

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        return self.function(x)


class _Queue:
    """Rows that wait until they are asked for."""

    def __init__(self) -> None:
        self.strips: list[Tensor] = []

    @property
    def rows(self) -> int:
        return sum(strip.shape[2] for strip in self.strips)

    def put(self, x: Tensor) -> None:
        self.strips.append(x)

    def pieces(self, rows: int) -> Iterator[Tensor]:
        while rows:
            strip = self.strips.pop(0)
            if strip.shape[2] > rows:
                # A copy: the few rows that stay would hold the memory of all.
                self.strips.insert(0, strip[:, :, rows:].clone())
                strip = strip[:, :, :rows]
            rows -= strip.shape[2]
            yield strip

    def take(self, rows: int) -> Tensor:
        if not rows:
            return self.strips[-1][:, :, :0].clone()
        pieces = list(self.pieces(rows))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def _part(step: Step) -> _Part:
    if isinstance(step, nn.Conv2d):
        return _Conv(step)
    if isinstance(step, Doubling):
        return _Doubling(step)
    if step is doubled or step is unfolded or step is apart:
        return _Twice(step)
    return _Half(step) if step is folded else _Each(step)


class _Rows:
    """A ``Local`` layer."""

    def __init__(self, layer: Local) -> None:
        self.steps = [_part(step) for step in layer.steps]
        self.shortcut = None if layer.shortcut is None else [_part(step) for step in layer.shortcut]
        self.skip = _Queue()

    def needs(self, rows: int) -> int:
        for step in reversed(self.steps):
            rows = step.needs(rows)
        return rows

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        y = x
        for step in self.steps:
            y = step(y, last)
        if self.shortcut is None:
            return y
        for step in self.shortcut:
            x = step(x, last)
        self.skip.put(x)
        return _add(y, self.skip)


class _Heads:
    """q, k, v of an attention at every scale, side by side in the channels."""

    def __init__(self, attention: MultiScaleAttention) -> None:
        self.attention = attention
        scales = [scale for scale in attention.scales if isinstance(scale, LocalScale)]
        self.scales = [(_Conv(scale.depth), _Each(scale.mixed)) for scale in scales]
        self.held = [_Queue() for _ in range(1 + len(self.scales))]

    def needs(self, rows: int) -> int:
        return max([rows, *(depth.needs(rows) for depth, _ in self.scales)])

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        qkv = self.attention.project(x)
        strips = [qkv, *(mix(depth(qkv, last), last) for depth, mix in self.scales)]
        for held, strip in zip(self.held, strips, strict=True):
            held.put(strip)
        rows = min(held.rows for held in self.held)
        return torch.cat([held.take(rows) for held in self.held], dim=1)


class _Attention:
    """An attention whose ``summary`` of all rows is known."""

    def __init__(self, attention: MultiScaleAttention, summary: Tensor) -> None:
        self.attention = attention
        self.summary = summary
        self.heads = _Heads(attention)
        self.needs = self.heads.needs
        self.skip = _Queue()

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        strip = self.heads(x, last)
        self.skip.put(x)
        if not strip.shape[2]:
            return x[:, :, :0]
        q, _, _ = self.attention.heads(strip)
        y = self.attention.finish(self.attention.read(q, self.summary, strip.dtype), strip.shape[2])
        return _add(y, self.skip)


def _add(y: Tensor, skip: _Queue) -> Tensor:
    start = 0
    for piece in skip.pieces(y.shape[2]):
        y[:, :, start : start + piece.shape[2]] += piece
        start += piece.shape[2]
    return y
