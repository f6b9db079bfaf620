from __future__ import annotations

import pytest
import torch
from torch import nn

from frolic.config import GroupRule, OptimizerSection, ScheduleSection
from frolic.errors import CheckpointError, ConfigError
from frolic.nn.orthogonal import orthogonalise
from frolic.train.ema import Ema
from frolic.train.muon import Muon
from frolic.train.optim import Optimizers, assign, lr_factor


@pytest.mark.parametrize("shape", [(2, 8, 32), (1, 32, 8), (1, 16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_newton_schulz_flattens_the_singular_values(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 9 * torch.eye(*shape[1:])
    y = orthogonalise(x, 5, dtype)
    after = torch.linalg.svdvals(y)
    assert y.dtype == x.dtype and after.max() < 1.35 and after.min() > 0.4
    u, _, v = torch.linalg.svd(x[0], full_matrices=False)
    assert nn.functional.cosine_similarity(y[0].flatten(), (u @ v).flatten(), dim=0) > 0.9


def muon(param: nn.Parameter, **group: object) -> Muon:
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "iterations": 5, "dtype": torch.float32}
    return Muon([{"params": [param], **group}], **settings)  # type: ignore[arg-type]


def test_a_stack_of_matrices_is_updated_one_by_one() -> None:
    whole, parts = nn.Parameter(torch.zeros(6, 4)), [nn.Parameter(torch.zeros(2, 4)) for _ in range(3)]
    gradient = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    whole.grad = gradient.clone()
    stacked = muon(whole, split=3)
    stacked.step()
    for part, piece in zip(parts, gradient.split(2), strict=True):
        part.grad = piece.clone()
        muon(part).step()
    assert torch.allclose(whole, torch.cat(list(parts)), atol=1e-6)


def test_rules_are_data_and_the_first_that_matches_counts() -> None:
    shapes = {
        name: torch.Size(shape) for name, shape in {"a.in.weight": (8, 4), "a.in.bias": (8,), "a.qkv": (24, 8)}.items()
    }
    section = OptimizerSection(
        kind="muon",
        lr=1.0,
        weight_decay=0.1,
        groups=[
            GroupRule(max_ndim=1, weight_decay=0.0),
            GroupRule(match=["*.in.*"], optimizer="adamw", lr_scale=0.5),
            GroupRule(match=["*.qkv"], split=3),
        ],
    )
    found = assign(shapes, section)
    assert (found["a.in.bias"].optimizer, found["a.in.bias"].weight_decay) == ("adamw", 0.0)
    assert (found["a.in.weight"].optimizer, found["a.in.weight"].lr_scale) == ("adamw", 0.5)
    assert (found["a.qkv"].optimizer, found["a.qkv"].split, found["a.qkv"].weight_decay) == ("muon", 3, 0.1)


def test_rules_that_fit_nothing_are_listed() -> None:
    shapes = {"net.query.weight": torch.Size((8, 4)), "net.bias": torch.Size((8,))}
    rules = [GroupRule(match=["net.qery.weight"]), GroupRule(match=["*.bias"], optimizer="muon"), GroupRule(split=3)]
    with pytest.raises(ConfigError) as caught:
        assign(shapes, OptimizerSection(kind="muon", lr=1.0, groups=rules))
    text = str(caught.value)
    assert "'net.qery.weight', did you mean 'net.query.weight'?" in text
    assert "net.bias of shape [8]" in text and "net.query.weight of shape [8, 4] cannot be 3 matrices" in text


def test_both_optimizers_step_with_the_scheduled_rate() -> None:
    params = {"w": nn.Parameter(torch.zeros(4, 4)), "b": nn.Parameter(torch.zeros(4))}
    optimizers = Optimizers(params, OptimizerSection(kind="muon", lr=0.1, eps=1e-12))
    params["w"].grad, params["b"].grad = torch.eye(4), torch.ones(4)
    optimizers.step(0.5)
    assert torch.allclose(params["b"], torch.full((4,), -0.05))
    assert params["w"].detach().square().mean().sqrt() == pytest.approx(0.05 * 0.2, rel=0.3)
    assert set(optimizers.state()) == {"w//momentum", "b//step", "b//exp_avg", "b//exp_avg_sq"}
    optimizers.zero_grad()
    assert params["w"].grad is None


def test_learning_rates() -> None:
    def curve(**section: object) -> list[float]:
        schedule = ScheduleSection.model_validate(section)
        return [round(lr_factor(step, 10, schedule), 3) for step in range(10)]

    assert curve() == [1.0] * 10
    assert curve(kind="constant", warmup=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert curve(kind="linear", decay_from=0.8, floor=0.1) == [1.0] * 9 + [0.55]
    cosine = curve(kind="cosine", warmup=2, floor=0.1)
    assert cosine[2] == 1.0 and cosine[6] == 0.55 and sorted(cosine[2:], reverse=True) == cosine[2:]
    assert lr_factor(50, 10, ScheduleSection(kind="cosine", floor=0.1)) == pytest.approx(0.1)


def test_the_average_warms_up_then_decays() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    ema = Ema({"layer": layer}, 0.5)
    nn.init.ones_(layer.weight)
    averaged = ema.modules["layer"].weight
    ema.update(1)
    assert averaged.item() == pytest.approx(1 - 2 / 11)
    ema.update(1000)
    assert averaged.item() == pytest.approx(1 - 2 / 11 * 0.5)
    assert not averaged.requires_grad and not ema.modules["layer"].training


def test_state_of_another_optimizer_is_refused():
    def optimizers(kind: str) -> Optimizers:
        return Optimizers({"m.weight": weight}, OptimizerSection(kind=kind, lr=0.1))

    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.ones(4, 4)
    states = {}
    for kind in ("adamw", "muon"):
        one = optimizers(kind)
        one.step(1.0)
        states[kind] = one.state()
    optimizers("muon").load(states["muon"])
    for kind, other in (("adamw", "muon"), ("muon", "adamw")):
        with pytest.raises(CheckpointError, match="optimizer is another one for 1 parameters"):
            optimizers(kind).load(states[other])
