"""Several adapters as one: exactly, cut to a rank, or merged as TIES and DARE do.

R rank, O rows and I columns of a layer's weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from frolic.errors import RequestError
from frolic.lora.adapter import Adapter
from frolic.lora.delta import Delta, scaled

Weighted = Sequence[tuple[Adapter, float]]


@dataclass(frozen=True)
class Blend:
    """``error`` is how far the whole change is from the exact one, over the exact one's length (Frobenius)."""

    adapter: Adapter
    error: float


def exact(parts: Weighted) -> Adapter:
    """The weighted sum, without loss: factors side by side, so ranks add up.

    Raises:
        RequestError: an adapter is a DoRA, whose change depends on the model's own weights.
    """
    return Adapter({name: _sum(each) for name, each in _by_linear(parts).items()}, "blend")


def cut(parts: Weighted, rank: int) -> Blend:
    """The weighted sum at ``rank``: nearest to it, layer by layer, of all that have no more. Raises as ``exact``."""
    whole = exact(parts)
    return _blend(
        whole.deltas, lambda delta: delta if delta.dense is None and delta.rank <= rank else low_rank(delta, rank)
    )


def ties(parts: Weighted, rank: int, density: float = 0.2) -> Blend:
    """TIES merging (Yadav et al. 2023) of the true changes, then cut to ``rank``; the error is that of the cut.

    Of each change the ``density`` largest entries stay, each entry takes the sign that outweighs the other, and those
    that agree with it are averaged. Raises as ``exact``, and RequestError for a density that is none.
    """
    _check(density)

    def merge(changes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        kept = torch.stack([w * _largest(change, density) for change, w in zip(changes, weights, strict=True)])
        sign = kept.sum(0).sign()
        agree = (kept.sign() == sign) & (kept != 0)
        return (kept * agree).sum(0) / agree.sum(0).clamp_min(1)

    return _merged(parts, rank, merge)


def dare(parts: Weighted, rank: int, density: float = 0.5, seed: int = 0) -> Blend:
    """DARE (Yu et al. 2024): of each true change a random ``density`` of the entries stays, scaled up by its inverse;
    their weighted sum, cut to ``rank``. Raises as ``ties``."""
    _check(density)
    generator = torch.Generator().manual_seed(seed)

    def merge(changes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        total = torch.zeros_like(changes[0])
        for change, w in zip(changes, weights, strict=True):
            total += w / density * change * (torch.rand(change.shape, generator=generator) < density)
        return total

    return _merged(parts, rank, merge)


def low_rank(delta: Delta, rank: int) -> Delta:
    """The nearest change of at most ``rank`` to ``delta`` (Eckart and Young), its singular values shared evenly by both
    factors. Without a dense part only matrices of the factors' own rank are decomposed: QR of each, then an SVD."""
    if delta.dense is not None:
        u, s, vt = torch.linalg.svd(delta.change(), full_matrices=False)
    else:
        left, right = torch.linalg.qr(delta.b), torch.linalg.qr(delta.a.T)
        inner_u, s, inner_vt = torch.linalg.svd(left.R @ right.R.T, full_matrices=False)
        u, vt = left.Q @ inner_u, inner_vt @ right.Q.T
    keep = min(rank, len(s))
    root = s[:keep].sqrt()
    return replace(delta, a=root[:, None] * vt[:keep], b=u[:, :keep] * root, dense=None)


def merge_into(weight: Tensor, deltas: Sequence[tuple[Delta, float]]) -> Tensor:
    """``weight`` with the changes added: summed in float32 from the original, and rounded once."""
    total = weight.float()
    for delta, share in deltas:
        total = total + share * delta.change(weight)
    return total.to(weight.dtype)


def _by_linear(parts: Weighted) -> dict[str, list[tuple[Delta, float]]]:
    layers: dict[str, list[tuple[Delta, float]]] = {}
    for adapter, weight in parts:
        for name, delta in adapter.deltas.items():
            if delta.magnitude is not None:
                raise RequestError(
                    f"{name} of an adapter is DoRA, which changes a weight by what it is, so it cannot be summed with "
                    "others in a file; blend it at run time, or merge it into its model."
                )
            layers.setdefault(name, []).append((delta, weight))
    return layers


def _sum(parts: Sequence[tuple[Delta, float]]) -> Delta:
    weighted = [scaled(delta, weight) for delta, weight in parts]

    def total(values: list[Tensor | None]) -> Tensor | None:
        there = [value for value in values if value is not None]
        return torch.stack(there).sum(0) if there else None

    return Delta(
        torch.cat([delta.a for delta in weighted]),
        torch.cat([delta.b for delta in weighted], dim=1),
        dense=total([delta.dense for delta in weighted]),
        bias=total([delta.bias for delta in weighted]),
    )


def _merged(parts: Weighted, rank: int, merge: Callable[[Sequence[Tensor], Sequence[float]], Tensor]) -> Blend:
    wholes = {}
    for name, each in _by_linear(parts).items():
        summed = _sum(each)
        rows, columns = summed.shape
        dense = merge([delta.change() for delta, _ in each], [weight for _, weight in each])
        wholes[name] = Delta(torch.zeros(0, columns), torch.zeros(rows, 0), dense=dense, bias=summed.bias)
    return _blend(wholes, lambda delta: low_rank(delta, rank))


def _blend(wholes: Mapping[str, Delta], shorten: Callable[[Delta], Delta]) -> Blend:
    made, lost, all_of_it = {}, 0.0, 0.0
    for name, whole in wholes.items():
        made[name] = shorten(whole)
        if made[name] is not whole:
            change = whole.change()
            lost += float((made[name].change() - change).square().sum())
            all_of_it += float(change.square().sum())
        else:
            all_of_it += squared_norm(whole)
    return Blend(Adapter(made, "blend"), (lost / all_of_it) ** 0.5 if all_of_it else 0.0)


def squared_norm(delta: Delta) -> float:
    """Of the change, from matrices of the rank's size where it is of low rank."""
    return inner(delta, delta)


def inner(one: Delta, other: Delta) -> float:
    """The sum over all entries of the product of two changes, without what DoRA makes of a weight's rows."""
    one, other = (replace(each, magnitude=None) for each in (one, other))
    if one.dense is not None or other.dense is not None:
        return float((one.change() * other.change()).sum())
    return float(((one.b.T @ other.b) * (one.a @ other.a.T)).sum())


def _largest(change: Tensor, density: float) -> Tensor:
    keep = max(1, round(density * change.numel()))
    limit = change.abs().flatten().kthvalue(change.numel() - keep + 1).values
    return torch.where(change.abs() >= limit, change, torch.zeros_like(change))


def _check(density: float) -> None:
    if not 0 < density <= 1:
        raise RequestError(f"A density is above 0 and at most 1, not {density:g}.")
