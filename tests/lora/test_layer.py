"""Adapters on a model: exact sums, bits that stay, and a mix of its own for every sample."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from torch import Tensor, nn

from dialects import ALPHA, RANK, Factors, expected, factors, goal, inputs, model
from frolic.lora.adapter import Adapter, parse
from frolic.lora.delta import Delta
from frolic.lora.layer import Attached, Carrier, linears
from frolic.models.wan.config import WanConfig
from frolic.models.wan.model import WanTransformer


def adapter(given: Factors) -> Adapter:
    tensors = {}
    for name, (down, up) in given.items():
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = down, up * (ALPHA / RANK)
    place = goal()
    problems: list[str] = []
    made = parse(tensors, {}, place.names, place.shapes, lambda kind, what: problems.append(what))
    assert not problems
    return made


def state_hash(net: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


GIVEN = {"a": factors(1), "b": factors(2), "c": factors(3)}
ADAPTERS = {name: adapter(given) for name, given in GIVEN.items()}


def by_hand(weights: dict[str, float]) -> Tensor:
    net: nn.Module = model()
    for name, weight in weights.items():
        net = expected(net, GIVEN[name], weight)
    return net(*inputs())


def test_a_blend_is_the_sum_of_the_changes() -> None:
    net = model()
    attached = Attached(net, ADAPTERS)
    weights = {"a": 0.6, "b": -0.4, "c": 1.3}
    attached.use(weights)
    wanted = by_hand(weights)
    assert float((net(*inputs()) - wanted).abs().max() / wanted.abs().max()) < 2e-6
    # What PEFT's "linear" does to factors, to each by the root of its weight, is another matrix altogether.
    one = {name: each.deltas["blocks.0.cross.q"] for name, each in ADAPTERS.items()}
    exact = 0.6 * one["a"].change() + 0.4 * one["b"].change()
    mixed = (0.6**0.5 * one["a"].b + 0.4**0.5 * one["b"].b) @ (0.6**0.5 * one["a"].a + 0.4**0.5 * one["b"].a)
    assert float((mixed - exact).norm() / exact.norm()) > 0.5


def test_one_layer_adds_exactly_the_sum() -> None:
    net = model()
    layer, x = net.blocks[0].cross.q, torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
    plain = layer(x)
    changes = {name: each.deltas["blocks.0.cross.q"].change() for name, each in ADAPTERS.items()}
    attached = Attached(net, ADAPTERS)
    attached.use({"a": 0.6, "b": 0.4})
    total = plain + x @ (0.6 * changes["a"] + 0.4 * changes["b"]).T
    torch.testing.assert_close(layer(x), total, rtol=0, atol=1e-6)


def test_weight_zero_and_removal_leave_every_bit() -> None:
    net = model()
    plain, before = net(*inputs()), state_hash(net)
    kinds = [type(module) for module in net.modules()]
    attached = Attached(net, ADAPTERS)
    assert state_hash(net) == before
    assert torch.equal(net(*inputs()), plain)  # nothing is used yet
    attached.use({"a": 0.0, "b": 0.0})
    assert torch.equal(net(*inputs()), plain)
    attached.use([{"a": 1.0}, {}])
    mixed = net(*inputs())
    assert not torch.equal(mixed[0], plain[0]) and torch.allclose(mixed[1], plain[1], atol=1e-6)
    attached.remove()
    assert torch.equal(net(*inputs()), plain) and state_hash(net) == before
    assert [type(module) for module in net.modules()] == kinds
    assert not any("carried" in vars(module) for module in net.modules())


def test_every_sample_has_its_own_mix() -> None:
    net = model()
    attached = Attached(net, ADAPTERS)
    mixes = [{"a": 1.0}, {"b": 0.5, "c": 0.5}, {}, {"a": -1.0, "c": 2.0}]
    given = inputs(len(mixes))
    attached.use(mixes)
    together = net(*given)
    for row, mix in enumerate(mixes):
        attached.use(mix)
        alone = net(*(tensor[row : row + 1] for tensor in given))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)


def test_an_adapter_can_be_kept_to_blocks() -> None:
    net = model()
    attached = Attached(net, ADAPTERS, {"a": range(1, 2)})
    attached.use({"a": 1.0, "b": 0.5})
    kept = {name: pair for name, pair in GIVEN["a"].items() if name.startswith("transformer_blocks.1.")}
    only: Factors = {name: kept.get(name, (down, up * 0)) for name, (down, up) in GIVEN["a"].items()}
    wanted = expected(expected(model(), only), GIVEN["b"], 0.5)(*inputs())
    torch.testing.assert_close(net(*inputs()), wanted, rtol=0, atol=1e-5)


def test_using_ends_with_what_was_before() -> None:
    net = model()
    attached = Attached(net, ADAPTERS)
    attached.use({"a": 0.5})
    half = net(*inputs())
    with attached.using({"b": 1.0}):
        assert not torch.equal(net(*inputs()), half)
    assert torch.equal(net(*inputs()), half)


def test_gradients_pass_through_to_the_input_and_to_weights() -> None:
    net = model()
    attached = Attached(net, ADAPTERS)
    attached.use({"a": 0.5, "b": 0.5})
    x, t, text, mask = inputs()
    x.requires_grad_()
    net(x, t, text, mask).square().sum().backward()
    assert x.grad is not None and bool(x.grad.abs().sum() > 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_adapters_take_the_dtype_of_the_layer(dtype: torch.dtype) -> None:
    net = model().to(dtype)
    attached = Attached(net, {"a": ADAPTERS["a"]})
    attached.use({"a": 1.0})
    x, t, text, mask = inputs()
    out = net(x.to(dtype), t.to(dtype), text.to(dtype), mask)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), by_hand({"a": 1.0}), rtol=0.1, atol=0.1)


def test_copies_and_second_attachments() -> None:
    net = model()
    attached = Attached(net, ADAPTERS)
    assert sum(isinstance(module, Carrier) for module in net.modules()) == len(goal().shapes)
    with pytest.raises(AssertionError, match="carries adapters already"):
        Attached(net, ADAPTERS)
    attached.use({"a": 1.0})
    copied = copy.deepcopy(net)
    assert torch.equal(copied(*inputs()), net(*inputs()))


@torch.no_grad()
def test_rows_are_mixed_apart_where_frames_have_times_of_their_own() -> None:
    torch.manual_seed(0)
    sizes = {"heads": 2, "head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 8, "freq_dim": 8}
    net = WanTransformer(WanConfig(**sizes, hidden=16, layers=1))
    parts = {name: shape for name, shape in linears(net).items() if name.startswith(("time", "modulation"))}
    assert len(parts) == 3
    adapter = Adapter({name: Delta(torch.randn(2, i), torch.randn(o, 2)) for name, (o, i) in parts.items()})
    x, text, mask = torch.randn(2, 4, 3, 4, 4), torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    times = torch.tensor([[0.0, 300.0, 300.0], [0.0, 700.0, 700.0]])
    attached = Attached(net, {"a": adapter})
    with attached.using([{"a": 2.0}, {"a": 1.0}]):
        together = net(x, times, text, mask)
    for row, weight in enumerate((2.0, 1.0)):
        with attached.using({"a": weight}):
            alone = net(*(each[row : row + 1] for each in (x, times, text, mask)))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)
