"""The samplers against diffusers' schedulers, and the promises of DESIGN.md that rest on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from frolic.sampling.guidance import cfg, cfg_batched
from frolic.sampling.prediction import flow
from frolic.sampling.schedules import euler_sigmas, flow_sigmas
from frolic.sampling.solvers import SAMPLERS, dpmpp_2m, euler


def toy_velocity(x: Tensor, t: Tensor) -> Tensor:
    """Nonlinear in x and t, and mixes positions."""
    t = t.reshape(-1, 1, 1, 1) / 1000
    return torch.tanh(1.3 * x + t) * (0.5 + t) + 0.2 * x.roll(1, -1).sin()


def their_dpm(steps: int, shift: float):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    scheduler.set_timesteps(steps)
    return scheduler


def their_euler(steps: int, shift: float):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    return scheduler


def run_theirs(scheduler, x: Tensor) -> Tensor:
    for t in scheduler.timesteps:
        x = scheduler.step(toy_velocity(x, t.expand(x.shape[0])), t, x, return_dict=False)[0]
    return x


def run_ours(name: str, steps: int, shift: float, x: Tensor) -> Tensor:
    sampler = SAMPLERS[name]
    denoise = flow(toy_velocity, sampler.integer_timesteps)
    *_, last = sampler.solve(denoise, x, sampler.sigmas(steps, shift))
    return last.x


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("steps", [1, 2, 9, 20, 27, 100])
def test_schedules_equal_diffusers(steps: int, shift: float) -> None:
    theirs = their_dpm(steps, shift)
    ours = flow_sigmas(steps, shift)
    assert torch.equal(ours.float(), theirs.sigmas)
    assert torch.equal((ours[:-1] * 1000).long(), theirs.timesteps)
    assert torch.allclose(euler_sigmas(steps, shift).float(), their_euler(steps, shift).sigmas, atol=1e-7, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 14, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("name", "theirs"), [("dpmpp_2m", their_dpm), ("euler", their_euler)])
def test_samplers_equal_diffusers(name: str, theirs, steps: int, shift: float) -> None:
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = run_theirs(theirs(steps, shift), x)
    assert (run_ours(name, steps, shift, x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("solve", [dpmpp_2m, euler])
def test_steps_are_numbered_and_the_last_is_the_estimate(solve) -> None:
    x = torch.randn(1, 2, 3, 3)
    steps = list(solve(flow(toy_velocity, True), x, flow_sigmas(4, 3.0)))
    assert [(s.index, s.total) for s in steps] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert torch.allclose(steps[-1].x, steps[-1].denoised)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_gradients_flow_through_the_sampler(name: str) -> None:
    x = torch.randn(2, 2, 4, 4, requires_grad=True)
    gain = torch.ones((), requires_grad=True)
    sampler = SAMPLERS[name]
    denoise = flow(lambda x, t: gain * toy_velocity(x, t), sampler.integer_timesteps)
    *_, last = sampler.solve(denoise, x, sampler.sigmas(5, 3.0))
    last.x.square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert gain.grad is not None and gain.grad.abs() > 0


def test_a_sampler_leaves_the_grad_mode_alone() -> None:
    with torch.inference_mode():
        *_, last = dpmpp_2m(flow(toy_velocity, True), torch.randn(1, 1, 2, 2), flow_sigmas(3, 3.0))
    assert last.x.is_inference()


def test_guidance_as_one_call_equals_two() -> None:
    x, sigma = torch.randn(2, 3, 4, 4), torch.tensor(0.7)

    def cond(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.sin(x) + sigma.reshape(-1, 1, 1, 1)

    def uncond(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.cos(x) * sigma.reshape(-1, 1, 1, 1)

    def joint(x: Tensor, sigma: Tensor) -> Tensor:
        halves = x.chunk(2)
        return torch.cat([uncond(halves[0], sigma), cond(halves[1], sigma)])

    assert torch.allclose(cfg(cond, uncond, 4.5)(x, sigma), cfg_batched(joint, 4.5)(x, sigma))
    assert torch.allclose(cfg(cond, uncond, 1.0)(x, sigma), cond(x, sigma), atol=1e-6)
    assert torch.allclose(cfg(cond, uncond, 0.0)(x, sigma), uncond(x, sigma))


def test_a_level_per_sample_is_the_same_as_one_each() -> None:
    x, sigmas = torch.randn(3, 2, 4, 4), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    denoise = flow(toy_velocity, True)
    each = torch.cat([denoise(x[i : i + 1], sigmas[i]) for i in range(3)])
    assert torch.allclose(denoise(x, sigmas), each, atol=1e-6)
