"""UniPC, Wan's own noise levels, and two denoisers that share the work."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from frolic.sampling.guidance import begin, experts
from frolic.sampling.prediction import flow
from frolic.sampling.schedules import SCHEDULES
from frolic.sampling.solvers import SAMPLERS


def velocity(x: Tensor, t: Tensor) -> Tensor:
    mix = torch.linspace(-1, 1, x.shape[-1] ** 2).view(x.shape[-1], -1)
    return torch.tanh(x @ mix) + (t / 1000).reshape(-1, *[1] * (x.ndim - 1)) * x


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
def test_unipc_is_diffusers(steps: int, shift: float) -> None:
    scheduler = pytest.importorskip("diffusers").UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    scheduler.set_timesteps(steps)
    sampler = SAMPLERS["unipc"]
    schedule = sampler.schedule()
    sigmas = schedule.sigmas(steps, shift)
    assert torch.equal(sigmas.float(), scheduler.sigmas)
    assert torch.equal(schedule.timesteps(sigmas[:-1]).long(), scheduler.timesteps)
    x = start = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t.expand(2).float()), t, x, return_dict=False)[0]
    *_, last = sampler.solve(flow(velocity, schedule.timesteps), start, sigmas)
    assert (last.x - x).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["unipc", "dpmpp_2m", "euler"])
def test_the_authors_levels_begin_at_pure_noise(name: str) -> None:
    """Where logarithms are infinite, and steps have to be finite all the same. (Those of UniPC begin just below, and it
    has to do with the others' too.)"""
    sampler = SAMPLERS[name]
    own, pure = sampler.schedule("wan"), SAMPLERS["dpmpp_2m"].schedule("wan")
    assert own.sigmas(6, 5.0)[0] == (pytest.approx(0.9998, abs=1e-5) if name == "unipc" else 1.0)
    sigmas = pure.sigmas(6, 5.0)
    assert sigmas[0] == 1.0 and sigmas[-1] == 0.0
    *_, last = sampler.solve(flow(velocity, pure.timesteps), torch.randn(1, 2, 3, 3), sigmas)
    assert bool(last.x.isfinite().all())


@pytest.mark.parametrize(
    ("shift", "boundary", "schedule", "grid", "high"),
    [
        (12.0, 0.875, "wan", "unipc", 26),
        (5.0, 0.9, "wan", "unipc", 15),
        (12.0, 0.875, "diffusers", "euler", 25),
        (5.0, 0.9, "diffusers", "euler", 14),
    ],
)
def test_how_forty_steps_are_shared(shift: float, boundary: float, schedule: str, grid: str, high: int) -> None:
    chosen = SCHEDULES[schedule][grid]
    sigmas = chosen.sigmas(40, shift)
    called: list[str] = []

    def named(name: str):  # type: ignore[no-untyped-def]
        return lambda x, sigma: (called.append(name), x)[1]

    denoise = experts(named("high"), named("low"), boundary, chosen.timesteps)
    for sigma in sigmas[:-1]:
        denoise(torch.zeros(1), sigma)
    assert called == ["high"] * high + ["low"] * (40 - high)


def test_euler_on_the_authors_levels_ends_where_they_say() -> None:
    assert abs(float(SCHEDULES["wan"]["euler"].sigmas(40, 5.0)[-2]) - 0.1136) < 1e-4
    assert abs(float(SCHEDULES["diffusers"]["euler"].sigmas(40, 5.0)[-2]) - 0.0244) < 1e-4


def test_a_clip_ends_with_the_frame_that_it_began_with() -> None:
    first = torch.randn(1, 2, 1, 3, 3)
    sampler = SAMPLERS["unipc"]
    schedule = sampler.schedule()
    denoise = begin(flow(velocity, schedule.timesteps), first)
    noise = torch.randn(2, 2, 4, 3, 3)
    *_, last = sampler.solve(denoise, noise, schedule.sigmas(5, 3.0))
    free = [*sampler.solve(flow(velocity, schedule.timesteps), noise, schedule.sigmas(5, 3.0))][-1]
    assert (last.x[:, :, :1] - first).abs().max() < 1e-6
    assert torch.equal(last.x[:, :, 1:], free.x[:, :, 1:]), "here frames know nothing of each other"
