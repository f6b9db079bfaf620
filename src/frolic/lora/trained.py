"""Adapters that are being trained: their factors as parameters, and the linears that read them.

R rank, I inputs and O outputs of a linear.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.errors import CheckpointError
from frolic.lora.adapter import Adapter
from frolic.lora.delta import Delta


class Factors(nn.Module):
    """Of every linear that is adapted, ``down`` [R, I], random, and ``up`` [O, R], zero: at first nothing changes.

    Hu et al. 2022, section 4.1; the change is ``alpha / rank`` times their product.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, int]], rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.linears = tuple(shapes)
        self.rank, self.alpha = rank, alpha
        self.down = nn.ParameterList(
            torch.randn(rank, columns, generator=generator) / columns**0.5 for _, columns in shapes.values()
        )
        self.up = nn.ParameterList(torch.zeros(rows, rank) for rows, _ in shapes.values())

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def scaled(self, weight: float) -> Factors:
        """The same factors, at ``weight`` times their strength."""
        other = copy.copy(self)
        other.alpha = self.alpha * weight
        return other

    def adapter(self) -> Adapter:
        """What was learned."""
        pairs = zip(self.linears, self.down, self.up, strict=True)
        return Adapter(
            {
                name: Delta(down.detach().float().cpu(), up.detach().float().cpu() * self.scale)
                for name, down, up in pairs
            },
            "frolic",
        )

    def load(self, adapter: Adapter) -> None:
        """Begin with ``adapter``.

        Raises:
            CheckpointError: listing the linears that it has not, or has beside these or of another shape or rank.
        """
        wrong = [
            f"{name} is {'not changed by it' if name in self.linears else 'changed by it alone'}"
            for name in sorted({*self.linears} ^ adapter.deltas.keys())
        ]
        for name, down, up in zip(self.linears, self.down, self.up, strict=True):
            delta = adapter.deltas.get(name)
            if delta is None:
                continue
            if delta.dense is not None or delta.magnitude is not None or delta.bias is not None:
                wrong.append(f"{name} is changed otherwise than by two factors")
            elif (delta.a.shape, delta.b.shape) != (down.shape, up.shape):
                wrong.append(f"{name} is of rank {delta.rank} and not {len(down)}, or of another shape")
        if wrong:
            more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
            raise CheckpointError(
                "The adapter to begin with is another one; set job.rank and job.targets as it has them: "
                f"{', '.join(wrong[:8])}{more}."
            )
        with torch.no_grad():
            for name, down, up in zip(self.linears, self.down, self.up, strict=True):
                down.copy_(adapter.deltas[name].a)
                up.copy_(adapter.deltas[name].b / self.scale)


class Learner:
    """What a linear's class gains while factors for it are trained."""

    learning: tuple[Learning, int]

    def forward(self, x: Tensor) -> Tensor:
        plain: Tensor = super().forward(x)  # type: ignore[misc]
        learning, index = self.learning
        factors = learning.factors
        if factors is None:
            return plain
        low = F.linear(x, factors.down[index].to(x.dtype))
        return plain + F.linear(low, factors.up[index].to(low.dtype)).to(plain.dtype) * factors.scale


@cache
def _learning(kind: Any) -> Any:
    return type(f"Learning{kind.__name__}", (Learner, kind), {"__doc__": kind.__doc__})


class Learning:
    """The linears of a model, reading ``factors``: those that are trained, an average of them, or None for the model
    alone."""

    def __init__(self, model: nn.Module, factors: Factors) -> None:
        self.factors: Factors | None = factors
        modules = dict(model.named_modules())
        for index, name in enumerate(factors.linears):
            linear: Any = modules[name]
            kind: Any = type(linear)
            linear.__class__ = _learning(kind)
            linear.learning = (self, index)

    @contextmanager
    def reading(self, factors: Factors | None) -> Iterator[None]:
        """Other factors, or none, for as long as it lasts."""
        before, self.factors = self.factors, factors
        try:
            yield
        finally:
            self.factors = before


def chosen(shapes: Mapping[str, tuple[int, int]], patterns: list[str]) -> dict[str, tuple[int, int]]:
    """The linears whose name matches any of the shell ``patterns``; one that begins with ``!`` takes away again."""
    found = {}
    for name, shape in shapes.items():
        wanted = any(fnmatchcase(name, pattern) for pattern in patterns if not pattern.startswith("!"))
        if wanted and not any(fnmatchcase(name, pattern[1:]) for pattern in patterns if pattern.startswith("!")):
            found[name] = shape
    return found
