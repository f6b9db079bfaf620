"""What an adapter adds to one linear layer, whatever dialect it was written in.

R rank, O rows of the layer's weight (outputs), I its columns (inputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

DORA_EPS = 1e-12


@dataclass(frozen=True)
class Delta:
    """A change of a weight ``W`` [O, I] at strength 1, in float32; every scale of the file is multiplied in.

    The change is ``b @ a + dense``. Where ``magnitude`` [O] is not zero, the row of ``W + b @ a`` is brought to that
    length besides (DoRA, Liu et al. 2024). ``bias`` [O] is added to the layer's output.
    """

    a: Tensor  # [R, I]
    b: Tensor  # [O, R]
    dense: Tensor | None = None  # [O, I]
    magnitude: Tensor | None = None  # [O]
    bias: Tensor | None = None  # [O]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight that it changes."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def rank(self) -> int:
        """Of the factors; 0 where there is only a dense part."""
        return self.a.shape[0]

    def gain(self, weight: Tensor) -> Tensor | None:
        """[O]: what DoRA multiplies each row of ``W + b @ a`` with; None without a magnitude.

        The rows' lengths come from three thin products instead of the whole sum: ``|w|^2 + 2 w·(b a) + |b a|^2``.
        """
        if self.magnitude is None:
            return None
        assert self.dense is None, "only low-rank parts have magnitudes"
        w = weight.to(self.a.device, torch.float32)
        squared = w.square().sum(1) + 2 * ((w @ self.a.T) * self.b).sum(1)
        squared = squared + ((self.b @ (self.a @ self.a.T)) * self.b).sum(1)
        length = squared.clamp_min(0).sqrt().clamp_min(DORA_EPS)
        return torch.where(self.magnitude == 0, torch.ones_like(length), self.magnitude / length)

    def change(self, weight: Tensor | None = None) -> Tensor:
        """[O, I] in float32: what is to be added to ``weight`` at strength 1; only DoRA asks for the weight."""
        low = self.b @ self.a
        if self.magnitude is not None:
            assert weight is not None, "DoRA changes a weight by what it is"
            gain = self.gain(weight)
            assert gain is not None
            return (gain - 1)[:, None] * weight.float() + gain[:, None] * low
        return low if self.dense is None else low + self.dense


def empty(rows: int, columns: int) -> Delta:
    return Delta(torch.zeros(0, columns), torch.zeros(rows, 0))


def stacked(parts: Sequence[tuple[slice, Delta]], rows: int, columns: int) -> Delta:
    """One delta for a layer of ``rows`` outputs from deltas of ranges of its rows: the split q, k and v of a file for a
    layer that holds them together. Parts that have the same ``a`` share it."""
    if len(parts) == 1 and parts[0][0] == slice(0, rows):
        return parts[0][1]
    a: list[Tensor] = []
    places = []
    for _, delta in parts:
        if not any(torch.equal(delta.a, each) for each in a):
            a.append(delta.a)
        number = next(number for number, each in enumerate(a) if torch.equal(delta.a, each))
        places.append(sum(each.shape[0] for each in a[:number]))
    b = torch.zeros(rows, sum(each.shape[0] for each in a))
    for (span, delta), first in zip(parts, places, strict=True):
        b[span, first : first + delta.rank] = delta.b

    def spread(name: str, *tail: int) -> Tensor | None:
        if all(getattr(delta, name) is None for _, delta in parts):
            return None
        whole = torch.zeros(rows, *tail)
        for span, delta in parts:
            if (own := getattr(delta, name)) is not None:
                whole[span] = own
        return whole

    return Delta(torch.cat(a), b, spread("dense", columns), spread("magnitude"), spread("bias"))


def of_rows(delta: Delta, span: slice) -> Delta:
    """The part of a delta that changes the rows ``span``; columns of ``b`` that are zero there go with their ``a``."""
    b = delta.b[span]
    used = b.abs().sum(0) > 0
    cut = {
        name: None if (own := getattr(delta, name)) is None else own[span] for name in ("dense", "magnitude", "bias")
    }
    kept = delta.a if bool(used.all()) else delta.a[used]
    return Delta(kept, b if bool(used.all()) else b[:, used], **cut)


def scaled(delta: Delta, factor: float) -> Delta:
    """``delta`` times ``factor``; not for DoRA, whose change is not proportional to its factors."""
    assert delta.magnitude is None
    dense = None if delta.dense is None else delta.dense * factor
    return replace(delta, b=delta.b * factor, dense=dense, bias=None if delta.bias is None else delta.bias * factor)


def kronecker(left: Tensor, right: Tensor | tuple[Tensor, Tensor], shape: tuple[int, int]) -> Delta:
    """LoKr (LyCORIS): ``left [o1, i1] ⊗ right [o2, i2]``, the right one whole or as factors ``(b [o2, r], a [r, i2])``.

    With factors it is exactly of rank ``r min(o1, i1)``, and stays so while that is less than the whole is.
    """
    if isinstance(right, tuple):
        b, a = right
        rows, columns = left.shape
        if b.shape[1] * min(rows, columns) < min(shape):
            if rows <= columns:
                return Delta(torch.kron(left, a), torch.kron(torch.eye(rows), b))
            return Delta(torch.kron(torch.eye(columns), a), torch.kron(left, b))
        right = b @ a
    return replace(empty(*shape), dense=torch.kron(left, right))


def hadamard(b1: Tensor, a1: Tensor, b2: Tensor, a2: Tensor) -> Delta:
    """LoHa (LyCORIS): ``(b1 a1) ∘ (b2 a2)``, exactly of rank ``r1 r2``: products of all pairs of columns and rows."""
    rank = a1.shape[0] * a2.shape[0]
    if rank < min(b1.shape[0], a1.shape[1]):
        return Delta((a1[:, None] * a2[None]).flatten(0, 1), (b1[:, :, None] * b2[:, None]).flatten(1))
    return replace(empty(b1.shape[0], a1.shape[1]), dense=(b1 @ a1) * (b2 @ a2))
