"""The samplers' own promises; what they share with diffusers is in tests/parity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from frolic.sampling.prediction import add_noise, flow
from frolic.sampling.schedules import (
    SCHEDULES,
    exact_timesteps,
    flow_sigmas,
    native_flow_sigmas,
    tail,
    truncated_timesteps,
)
from frolic.sampling.solvers import SAMPLERS, dpmpp
from toys import toy_velocity

FLOW = [name for name, sampler in SAMPLERS.items() if not sampler.renoises]


@pytest.mark.parametrize("name", FLOW)
def test_steps_are_numbered_and_the_last_is_the_estimate(name: str) -> None:
    x = torch.randn(1, 2, 3, 3)
    steps = list(SAMPLERS[name].solve(flow(toy_velocity, exact_timesteps), x, flow_sigmas(4, 3.0)))
    assert [(s.index, s.total) for s in steps] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert torch.allclose(steps[-1].x, steps[-1].denoised)


@pytest.mark.parametrize("name", FLOW)
def test_gradients_flow_through_the_sampler(name: str) -> None:
    x = torch.randn(2, 2, 4, 4, requires_grad=True)
    gain = torch.ones((), requires_grad=True)
    schedule = SAMPLERS[name].schedule()
    denoise = flow(lambda x, t: gain * toy_velocity(x, t), schedule.timesteps)
    *_, last = SAMPLERS[name].solve(denoise, x, schedule.sigmas(5, 3.0))
    last.x.square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert gain.grad is not None and gain.grad.abs() > 0


def test_a_sampler_leaves_the_grad_mode_alone() -> None:
    with torch.inference_mode():
        *_, last = dpmpp(flow(toy_velocity, exact_timesteps), torch.randn(1, 1, 2, 2), flow_sigmas(3, 3.0))
    assert last.x.is_inference()


def test_a_level_per_sample_is_the_same_as_one_each() -> None:
    x, sigmas = torch.randn(3, 2, 4, 4), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    denoise = flow(toy_velocity, truncated_timesteps)
    each = torch.cat([denoise(x[i : i + 1], sigmas[i]) for i in range(3)])
    assert torch.allclose(denoise(x, sigmas), each, atol=1e-6)


@pytest.mark.parametrize("name", FLOW)
def test_levels_that_start_at_one_are_solved_too(name: str) -> None:
    """There the log-SNR is minus infinity, and what looks back at it must vanish."""
    sigmas = torch.linspace(1, 0, 31, dtype=torch.float64)
    x = torch.randn(1, 2, 3, 3)
    *_, last = SAMPLERS[name].solve(flow(toy_velocity, exact_timesteps), x, sigmas)
    *_, fine = SAMPLERS["euler"].solve(
        flow(toy_velocity, exact_timesteps), x, torch.linspace(1, 0, 1001, dtype=torch.float64)
    )
    assert (last.x - fine.x).abs().max() < 0.05


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("grid", SCHEDULES["diffusers"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_every_schedule_falls_from_near_one_to_zero(name: str, grid: str, steps: int) -> None:
    sigmas = SCHEDULES[name][grid].sigmas(steps, 3.0)
    assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float64
    assert 0.99 < sigmas[0] <= 1 and sigmas[-1] == 0 and bool((sigmas.diff() < 0).all())


def test_every_sampler_has_both_schedules() -> None:
    for sampler in SAMPLERS.values():
        assert all(sampler.schedule(name) is SCHEDULES[name][sampler.grid] for name in ("diffusers", "native"))


def test_the_native_schedule_is_the_same_in_float32() -> None:
    for steps in range(1, 101):
        ours, theirs = flow_sigmas(steps, 3.0), native_flow_sigmas(steps, 3.0)
        assert torch.equal(theirs, theirs.float().double())
        assert torch.allclose(ours, theirs, atol=3e-7, rtol=0)


def test_where_float32_tells_the_network_another_timestep() -> None:
    """The reason why levels are float64 and a schedule brings its own timesteps."""
    told = {}
    for name in ("diffusers", "native"):
        schedule = SCHEDULES[name]["dpmpp"]
        told[name] = schedule.timesteps(schedule.sigmas(9, 1.0)).tolist()[5:9]
    assert told == {"diffusers": [443, 332, 221, 110], "native": [444, 333, 222, 111]}


def test_native_euler_knows_one_shift_and_truncates() -> None:
    native = SCHEDULES["native"]["euler"]
    assert torch.equal(native.sigmas(20, 6.0), native.sigmas(20, 3.0))
    assert torch.equal(native.timesteps(torch.tensor([0.5004, 0.75])), torch.tensor([500.0, 750.0]))


@pytest.mark.parametrize(
    ("steps", "strength", "left"),
    [(20, 1.0, 20), (20, 0.5, 10), (20, 0.33, 7), (20, 0.01, 1), (20, 1e-30, 1), (1, 0.5, 1), (3, 0.7, 3)],
)
def test_tail_keeps_the_share_of_steps(steps: int, strength: float, left: int) -> None:
    sigmas = flow_sigmas(steps, 3.0)
    rest = tail(sigmas, strength)
    assert torch.equal(rest, sigmas[steps - left :])


def test_starting_from_a_finished_picture_with_its_own_noise_returns_it() -> None:
    """A denoiser that knows the answer is followed from any level on."""
    x0, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    for sampler in map(SAMPLERS.__getitem__, FLOW):
        sigmas = tail(sampler.schedule().sigmas(12, 3.0), 0.4)

        def known(x: Tensor, sigma: Tensor) -> Tensor:
            return x0

        for step in sampler.solve(known, add_noise(x0, noise, sigmas[0]), sigmas):
            assert torch.allclose(step.x, add_noise(x0, noise, sigmas[step.index + 1]), atol=1e-5)


@pytest.mark.parametrize(("name", "order"), [("dpmpp_1s", 1), ("dpmpp_2m", 2), ("dpmpp_2m_heun", 2), ("dpmpp_3m", 3)])
def test_the_order_of_convergence(name: str, order: int) -> None:
    """Twice the steps, ``2^order`` times less error, on a grid that is uniform in log-SNR (without the last step)."""

    def solve(steps: int) -> float:
        lambdas = torch.linspace(-2.0, 4.0, steps + 1, dtype=torch.float64)
        sigmas = torch.cat([1 / (1 + lambdas.exp()), torch.zeros(1, dtype=torch.float64)])
        start = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        states = SAMPLERS[name].solve(lambda x, sigma: torch.sin(2 * x), start, sigmas)
        return float([step.x for step in states][-2])

    exact = _runge_kutta()
    coarse, fine = (abs(solve(steps) - exact) for steps in (12, 24))
    assert abs(math.log2(coarse / fine) - order) < 0.4


def _runge_kutta(steps: int = 4000) -> float:
    """The same equation, ``dx / dsigma = (x - sin 2x) / sigma``, over log sigma."""
    low, high = (math.log(1 / (1 + math.exp(value))) for value in (-2.0, 4.0))
    h, x = (high - low) / steps, 1.0

    def slope(x: float) -> float:
        return x - math.sin(2 * x)

    for _ in range(steps):
        a = slope(x)
        b = slope(x + h * a / 2)
        c = slope(x + h * b / 2)
        x += h * (a + 2 * b + 2 * c + slope(x + h * c)) / 6
    return x
