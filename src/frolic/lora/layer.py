"""Linears that carry adapters, and the mix that says how much of each.

B batch, L tokens, I inputs, O outputs, R the ranks of all adapters together, N adapters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.lora.adapter import Adapter
from frolic.lora.delta import Delta
from frolic.nn.visit import visiting

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
Weights = Mapping[str, float] | Sequence[Mapping[str, float]]


class _Mix:
    """How much of each adapter there is now: [B, N] for the rows of a batch, or [N] for all. Shared by the layers of
    one model, and changed between calls. ``within`` are the blocks that an adapter is kept to, or None."""

    def __init__(self, within: Sequence[range | None]) -> None:
        self.within = tuple(within)
        self.weights: Tensor | None = None


class Carrier:
    """What a linear's class gains while adapters are attached. Its weight, its names and its state stay as they are."""

    carried: _Carried

    def forward(self, x: Tensor) -> Tensor:
        plain: Tensor = super().forward(x)  # type: ignore[misc]
        share = self.carried.share(plain)
        return plain if share is None else share.add(x, plain, getattr(self, "bias", None))


@dataclass(frozen=True)
class _Share:
    """What one mix of adapters does to a linear, where its result is: for all samples the factors with the weights
    multiplied in; else ``ranks`` [B, R] beside them, and [B, 1] beside each of the others."""

    a: Tensor | None
    b: Tensor | None
    ranks: Tensor | None
    dense: Sequence[tuple[Tensor, Tensor]]
    gain: Sequence[tuple[Tensor, Tensor]]
    bias: Sequence[tuple[Tensor, Tensor]]

    def add(self, x: Tensor, plain: Tensor, own_bias: Tensor | None) -> Tensor:
        out = plain
        if self.a is not None and self.b is not None:
            low = F.linear(x, self.a)
            if self.ranks is not None:
                low = low * _along(self.ranks, low)
            # One product that adds to what is there, instead of a product and a sum.
            out = torch.addmm(out.flatten(0, -2), low.flatten(0, -2), self.b.T).view_as(out)
        for dense, weight in self.dense:
            out = out + F.linear(x, dense) * _along(weight, out)
        for gain, weight in self.gain:
            # DoRA's rows are longer or shorter versions of the layer's own, without its bias.
            out = out + (plain if own_bias is None else plain - own_bias) * gain * _along(weight, out)
        for bias, weight in self.bias:
            out = out + bias * _along(weight, out)
        return out


def _along(weights: Tensor, x: Tensor) -> Tensor:
    """[B, k] between the first and the last axis of ``x``; one number stays one."""
    return weights if weights.ndim < 2 else weights.reshape(len(weights), *[1] * (x.ndim - 2), -1)


class _Carried:
    """The deltas of all adapters for one linear, side by side: one pair of thin products for any number of them."""

    def __init__(self, deltas: Sequence[Delta | None], linear: nn.Linear, mix: _Mix, block: int | None) -> None:
        weight = linear.weight
        self._mix = mix
        kept = [(index, delta) for index, delta in enumerate(deltas) if delta is not None]
        # An adapter that is kept to some blocks is not there in others, nor outside of all.
        self._owns = [
            index for index, _ in kept if (span := mix.within[index]) is None or (block is not None and block in span)
        ]
        gains = {index: gain for index, delta in kept if (gain := delta.gain(weight)) is not None}
        ranked = [(index, delta) for index, delta in kept if delta.rank]
        self._owner = torch.tensor([i for i, delta in ranked for _ in range(delta.rank)], dtype=torch.long)
        self._a = torch.cat([delta.a for _, delta in ranked]) if ranked else None
        turned = [delta.b if i not in gains else gains[i][:, None] * delta.b for i, delta in ranked]
        self._b = torch.cat(turned, dim=1) if ranked else None
        self._dense = [(index, delta.dense) for index, delta in kept if delta.dense is not None]
        self._gain = [(index, gain - 1) for index, gain in gains.items()]
        self._bias = [(index, delta.bias) for index, delta in kept if delta.bias is not None]
        self._seen: tuple[Tensor | None, torch.device, torch.dtype] | None = None
        self._share: _Share | None = None

    def share(self, result: Tensor) -> _Share | None:
        """What the mix of now does, where and in what ``result`` is; None if nothing. Kept until the mix changes."""
        seen = (self._mix.weights, result.device, result.dtype)
        if self._seen is None or self._seen[0] is not seen[0] or self._seen[1:] != seen[1:]:
            with torch.inference_mode(False):  # what is kept may be asked for gradients later
                self._seen, self._share = seen, self._made(*seen)
        return self._share

    def _made(self, weights: Tensor | None, device: torch.device, dtype: torch.dtype) -> _Share | None:
        used = [] if weights is None else [i for i in self._owns if bool(weights[..., i].any())]
        if weights is None or not used:
            return None

        def here(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype)

        def each(owned: Sequence[tuple[int, Tensor]]) -> list[tuple[Tensor, Tensor]]:
            return [
                (here(tensor), here(weights[i] if weights.ndim == 1 else weights[:, i : i + 1]))
                for i, tensor in owned
                if i in used
            ]

        a = b = ranks = None
        if self._a is not None and self._b is not None:
            rows = torch.isin(self._owner, torch.tensor(used))
            scale = weights[..., self._owner[rows]]
            if scale.shape[-1]:
                a = here(self._a[rows])
                b = here(self._b[:, rows] if weights.ndim == 2 else self._b[:, rows] * scale)
                ranks = here(scale) if weights.ndim == 2 else None
        return _Share(a, b, ranks, each(self._dense), each(self._gain), each(self._bias))


@cache
def _carrying(kind: Any) -> Any:
    return type(f"Carrying{kind.__name__}", (Carrier, kind), {"__doc__": kind.__doc__, "carries": kind})


class Attached:
    """Adapters on a model; where all weights are 0 it is bit for bit what it was.

    ``within``: the blocks that an adapter is kept to. Deltas are held in float32 on the CPU, and what a mix needs of
    them where the layer computes.
    """

    def __init__(
        self, model: nn.Module, adapters: Mapping[str, Adapter], within: Mapping[str, range] = MappingProxyType({})
    ) -> None:
        self.names = tuple(adapters)
        self._mix = _Mix([within.get(name) for name in self.names])
        modules = dict(model.named_modules())
        self._linears: list[nn.Module] = []
        touched = dict.fromkeys(name for adapter in adapters.values() for name in adapter.deltas)
        for block, names in groupby(sorted(touched, key=_home), key=_home):
            together = {name: [adapter.deltas.get(name) for adapter in adapters.values()] for name in names}
            # Only a magnitude asks for the weight, which may have to be brought.
            asks = any(
                delta is not None and delta.magnitude is not None for each in together.values() for delta in each
            )
            with visiting(modules[block]) if asks else nullcontext():
                for name, deltas in together.items():
                    self._attach(modules[name], name, deltas)

    def _attach(self, linear: nn.Module, name: str, deltas: Sequence[Delta | None]) -> None:
        assert isinstance(linear, nn.Linear), f"{name} is no linear"
        assert not isinstance(linear, Carrier), f"{name} carries adapters already"
        carried = _Carried(deltas, linear, self._mix, block_of(name))
        kind: Any = type(linear)
        linear.__class__ = _carrying(kind)
        linear.carried = carried  # type: ignore[assignment]
        self._linears.append(linear)

    def remove(self) -> None:
        """Give the linears back as they were."""
        for linear in self._linears:
            linear.__class__ = type(linear).carries  # type: ignore[attr-defined]
            del linear.carried
        self._linears = []

    def use(self, weights: Tensor | Weights | None) -> None:
        """Set how much there is of each adapter: for every row of the batches to come, or one mapping for each row.
        What is not named is 0. Tensors are [N] or [B, N], in the order of ``names``."""
        self._mix.weights = weights if weights is None or isinstance(weights, Tensor) else self.tensor(weights)

    def tensor(self, weights: Weights) -> Tensor:
        """``weights`` as [N], or [B, N]."""
        if isinstance(weights, Mapping):
            assert weights.keys() <= set(self.names), sorted(weights.keys() - set(self.names))
            return torch.tensor([float(weights.get(name, 0.0)) for name in self.names])
        return torch.stack([self.tensor(each) for each in weights])

    @contextmanager
    def using(self, weights: Tensor | Weights | None) -> Iterator[None]:
        """``use`` for as long as it lasts."""
        before = self._mix.weights
        self.use(weights)
        try:
            yield
        finally:
            self._mix.weights = before


def _home(name: str) -> str:
    """The name of the block that a part lies in, or of the model."""
    found = _BLOCK.search(name)
    return "" if found is None else name[: found.end() - 1]


def block_of(name: str) -> int | None:
    """The number of the block that a part lies in, or None outside of all."""
    found = _BLOCK.search(name)
    return None if found is None else int(found[1])


def linears(model: nn.Module, among: Callable[[str], Any] = lambda name: True) -> dict[str, tuple[int, int]]:
    """The linears that adapters can change, by name, with the shape of their weight [O, I]."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and among(name)
    }
