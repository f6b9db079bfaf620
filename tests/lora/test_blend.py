from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from frolic.errors import RequestError
from frolic.lora import blend, inspect
from frolic.lora.adapter import Adapter
from frolic.lora.delta import Delta, empty, of_rows, stacked

ROWS, COLUMNS = 24, 16


def delta(seed: int, rank: int = 3, dense: bool = False, bias: bool = False) -> Delta:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Delta(
        draw(rank, COLUMNS), draw(ROWS, rank), draw(ROWS, COLUMNS) if dense else None, bias=draw(ROWS) if bias else None
    )


def one(made: Delta) -> Adapter:
    return Adapter({"layer": made})


def change(adapter: Adapter) -> Tensor:
    return adapter.deltas["layer"].change()


@pytest.mark.parametrize("dense", [False, True])
def test_exact_is_the_sum(dense: bool) -> None:
    a, b = delta(1, bias=True), delta(2, 5, dense, bias=True)
    made = blend.exact([(one(a), 0.6), (one(b), -0.4)])
    torch.testing.assert_close(change(made), 0.6 * a.change() - 0.4 * b.change(), rtol=0, atol=1e-5)
    assert a.bias is not None and b.bias is not None
    torch.testing.assert_close(made.deltas["layer"].bias, 0.6 * a.bias - 0.4 * b.bias)
    assert made.deltas["layer"].rank == 8


def test_layers_of_one_only_are_kept() -> None:
    made = blend.exact([(Adapter({"x": delta(1)}), 0.5), (Adapter({"y": delta(2)}), 2.0)])
    assert made.deltas.keys() == {"x", "y"}
    torch.testing.assert_close(made.deltas["y"].change(), 2 * delta(2).change())


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 7])
def test_cut_is_the_nearest_of_its_rank_and_tells_its_error(rank: int, dense: bool) -> None:
    parts = [(one(delta(1, dense=dense)), 0.7), (one(delta(2, 5)), 0.3)]
    whole = change(blend.exact(parts))
    made = blend.cut(parts, rank)
    u, s, vt = torch.linalg.svd(whole, full_matrices=False)
    best = u[:, :rank] * s[:rank] @ vt[:rank]
    torch.testing.assert_close(change(made.adapter), best, rtol=0, atol=1e-4)
    assert made.adapter.deltas["layer"].rank == rank
    assert made.error == pytest.approx(float((best - whole).norm() / whole.norm()), rel=1e-3)


def test_cutting_to_enough_changes_nothing() -> None:
    parts = [(one(delta(1)), 1.0), (one(delta(2)), 1.0)]
    made = blend.cut(parts, 6)
    assert made.error == 0 and torch.equal(change(made.adapter), change(blend.exact(parts)))
    assert blend.low_rank(delta(1, rank=20), 30).rank <= ROWS  # more factors than there are directions


def test_ties_takes_the_sign_that_outweighs() -> None:
    a, b = torch.zeros(2, 2, 2)
    a[0, 0], b[0, 0] = 4.0, 2.0  # agree: their mean
    a[1, 1], b[1, 1] = 3.0, -1.0  # disagree: the larger stays alone
    a[0, 1] = 0.1  # too small to stay
    parts = [(one(Delta(torch.zeros(0, 2), torch.zeros(2, 0), dense=x)), 1.0) for x in (a, b)]
    made = blend.ties(parts, rank=2, density=0.5)
    torch.testing.assert_close(change(made.adapter), torch.tensor([[3.0, 0.0], [0.0, 3.0]]), rtol=0, atol=1e-5)
    assert made.error < 1e-5


def test_dare_keeps_the_mean_and_is_the_sum_at_full_density() -> None:
    parts = [(one(delta(1)), 0.5), (one(delta(2)), 1.5)]
    whole = change(blend.exact(parts))
    torch.testing.assert_close(change(blend.dare(parts, 16, 1.0).adapter), whole, rtol=0, atol=1e-4)
    many = torch.stack([change(blend.dare(parts, 16, 0.5, seed).adapter) for seed in range(200)])
    assert float((many.mean(0) - whole).norm() / whole.norm()) < 0.12
    assert not torch.allclose(many[0], many[1])
    with pytest.raises(RequestError, match="density"):
        blend.ties(parts, 4, 1.5)


def test_dora_is_not_summed_in_a_file() -> None:
    dora = Delta(*(lambda d: (d.a, d.b))(delta(1)), magnitude=torch.ones(ROWS))
    with pytest.raises(RequestError, match="DoRA"):
        blend.exact([(one(dora), 1.0), (one(delta(2)), 1.0)])


def test_merging_rounds_once() -> None:
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(5)).bfloat16()
    deltas = [(delta(1), 0.01), (delta(2), -0.02)]
    total = weight.float() + 0.01 * deltas[0][0].change() - 0.02 * deltas[1][0].change()
    assert torch.equal(blend.merge_into(weight, deltas), total.bfloat16())


def test_norms_and_cosines_without_the_whole_matrices() -> None:
    a, b = delta(1), delta(2, 5)
    assert blend.squared_norm(a) == pytest.approx(float(a.change().square().sum()), rel=1e-4)
    cosine = float((a.change() * b.change()).sum() / a.change().norm() / b.change().norm())
    (found,) = inspect.overlaps(one(a), one(b))
    assert found.cosine == pytest.approx(cosine, abs=1e-4)
    (same,) = inspect.overlaps(one(a), one(a))
    assert (same.cosine, same.inputs, same.outputs) == pytest.approx((1, 1, 1), abs=1e-4)
    weight = torch.ones(ROWS, COLUMNS)
    (facts,) = inspect.facts(one(a), {"layer": weight})
    assert facts.rank == 3 and facts.relative == pytest.approx(float(a.change().norm() / weight.norm()), rel=1e-4)


def test_a_layer_with_magnitudes_is_compared_by_its_directions() -> None:
    low, dense = delta(1), delta(2, dense=True)
    dora = replace(low, magnitude=torch.rand(len(low.b)) + 1)
    (found,) = inspect.overlaps(one(dora), one(dense))
    (plain,) = inspect.overlaps(one(low), one(dense))
    assert found == plain


def test_overlap_is_one_where_the_directions_are_the_same() -> None:
    a = delta(1)
    turned = Delta(torch.randn(3, 3, generator=torch.Generator().manual_seed(9)) @ a.a, delta(7).b)
    (found,) = inspect.overlaps(one(a), one(turned))
    assert found.inputs == pytest.approx(1, abs=1e-3) and found.outputs < 0.6


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda a: Delta(a.a, -a.b), "will fight"),
        (lambda a: Delta(a.a, 2 * a.b), "much the same"),
        (lambda a: Delta(a.a, delta(7).b), "may disturb"),
    ],
)
def test_the_verdict(other, said: str) -> None:  # type: ignore[no-untyped-def]
    a = delta(1)
    assert said in inspect.verdict(inspect.overlaps(one(a), one(other(a))), ("A", "B"))
    assert "no layer in common" in inspect.verdict([], ("A", "B"))


def test_rows_of_a_stack_come_back() -> None:
    parts = [(slice(0, 24), delta(1)), (slice(24, 48), delta(2, bias=True)), (slice(48, 72), empty(24, COLUMNS))]
    whole = stacked(parts, 72, COLUMNS)
    assert whole.rank == 6
    torch.testing.assert_close(whole.change(), torch.cat([each.change() for _, each in parts]))
    for span, each in parts[:2]:
        again = of_rows(whole, span)
        assert again.rank == each.rank
        torch.testing.assert_close(again.change(), each.change())
