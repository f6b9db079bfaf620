"""Linears that carry adapters, and the mix that says how much of each.

B batch, L tokens, I inputs, O outputs, R the ranks of all adapters together, N adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.lora.adapter import Adapter
from frolic.lora.delta import Delta


class _Mix:
    """How much of each adapter there is now: [B, N] for the rows of a batch, or [N] for all. Shared by the layers of
    one model, and changed between calls."""

    def __init__(self) -> None:
        self.weights: Tensor | None = None


class Carrier:
    """What a linear's class gains while adapters are attached. Its weight, its names and its state stay as they are."""

    carried: _Carried

    def forward(self, x: Tensor) -> Tensor:
        carried = self.carried
        weights = carried.mix.weights
        plain: Tensor = super().forward(x)  # type: ignore[misc]
        if weights is None or not carried.present(weights):
            return plain
        return carried.add(x, plain, weights, getattr(self, "bias", None))


class _Carried:
    """The deltas of all adapters for one linear, side by side: one pair of thin products for any number of them."""

    def __init__(self, deltas: Sequence[Delta | None], linear: nn.Linear, mix: _Mix) -> None:
        weight = linear.weight
        self.mix = mix
        self.owns = [index for index, delta in enumerate(deltas) if delta is not None]
        kept = [(index, delta) for index, delta in enumerate(deltas) if delta is not None]
        gains = {index: gain for index, delta in kept if (gain := delta.gain(weight)) is not None}

        def here(tensor: Tensor) -> Tensor:
            return tensor.to(weight.device, weight.dtype)

        def turned(index: int, delta: Delta) -> Tensor:
            return delta.b if index not in gains else gains[index][:, None] * delta.b

        ranked = [(index, delta) for index, delta in kept if delta.rank]
        self.a = here(torch.cat([delta.a for _, delta in ranked])) if ranked else None
        self.b = here(torch.cat([turned(*each) for each in ranked], dim=1)) if ranked else None
        self.owner = torch.tensor([i for i, delta in ranked for _ in range(delta.rank)], dtype=torch.long)
        self.dense = [(index, here(delta.dense)) for index, delta in kept if delta.dense is not None]
        self.gain = [(index, here(gain - 1)) for index, gain in gains.items()]
        self.bias = [(index, here(delta.bias)) for index, delta in kept if delta.bias is not None]
        self._owner_here = self.owner.to(weight.device)

    def present(self, weights: Tensor) -> bool:
        """Whether any adapter that changes this linear has a weight."""
        return bool(weights[..., self.owns].any())

    def add(self, x: Tensor, plain: Tensor, weights: Tensor, own_bias: Tensor | None) -> Tensor:
        def share(index: Tensor | int) -> Tensor:
            """Weights of adapters, shaped to multiply [B, L, ...] or [..., width]."""
            chosen = weights[..., index].to(x.device, x.dtype)
            chosen = chosen if isinstance(index, Tensor) else chosen.unsqueeze(-1)
            return chosen if weights.ndim == 1 else chosen.reshape(len(chosen), *[1] * (x.ndim - 2), chosen.shape[-1])

        out = plain
        if self.a is not None and self.b is not None:
            out = out + F.linear(F.linear(x, self.a) * share(self._owner_here), self.b)
        for index, dense in self.dense:
            out = out + F.linear(x, dense) * share(index)
        for index, gain in self.gain:
            # DoRA's rows are longer or shorter versions of the layer's own, without its bias.
            out = out + (plain if own_bias is None else plain - own_bias) * gain * share(index)
        for index, bias in self.bias:
            out = out + bias * share(index)
        return out


@cache
def _carrying(kind: Any) -> Any:
    return type(f"Carrying{kind.__name__}", (Carrier, kind), {"__doc__": kind.__doc__, "carries": kind})


class Attached:
    """Adapters on a model. ``weights`` says how much of each; at 0 the model is bit for bit what it was."""

    def __init__(self, model: nn.Module, adapters: Mapping[str, Adapter]) -> None:
        self.names = tuple(adapters)
        self._mix = _Mix()
        modules = dict(model.named_modules())
        self._linears: list[nn.Module] = []
        touched = dict.fromkeys(name for adapter in adapters.values() for name in adapter.deltas)
        for name in touched:
            linear = modules[name]
            assert isinstance(linear, nn.Linear), f"{name} is no linear"
            assert not isinstance(linear, Carrier), f"{name} carries adapters already"
            deltas = [adapter.deltas.get(name) for adapter in adapters.values()]
            carried = _Carried(deltas, linear, self._mix)
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

    def use(self, weights: Mapping[str, float] | Sequence[Mapping[str, float]] | None) -> None:
        """Set how much there is of each adapter: for every row of the batches to come, or one mapping for each row.
        What is not named is 0."""
        self._mix.weights = None if weights is None else self.tensor(weights)

    def tensor(self, weights: Mapping[str, float] | Sequence[Mapping[str, float]]) -> Tensor:
        """``weights`` as [N], or [B, N]."""
        if isinstance(weights, Mapping):
            assert weights.keys() <= set(self.names), sorted(weights.keys() - set(self.names))
            return torch.tensor([float(weights.get(name, 0.0)) for name in self.names])
        return torch.stack([self.tensor(each) for each in weights])

    @contextmanager
    def using(self, weights: Mapping[str, float] | Sequence[Mapping[str, float]] | None) -> Iterator[None]:
        """``use`` for as long as it lasts."""
        before = self._mix.weights
        self.use(weights)
        try:
            yield
        finally:
            self._mix.weights = before


def linears(model: nn.Module, among: Callable[[str], Any] = lambda name: True) -> dict[str, tuple[int, int]]:
    """The linears that adapters can change, by name, with the shape of their weight [O, I]."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and among(name)
    }
