"""Samplers and guidance against what is published. The network is a toy: its arithmetic is not at issue."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor

from frolic.sampling.guidance import apg_batched, guided, keep
from frolic.sampling.prediction import add_noise, flow
from frolic.sampling.schedules import euler_sigmas, flow_sigmas, tail, truncated_timesteps
from frolic.sampling.solvers import SAMPLERS, dpmpp
from toys import cond, joint_of, perturbed, toy_velocity, uncond

diffusers = pytest.importorskip("diffusers")

STEPS = [1, 2, 3, 5, 14, 20, 50]
X = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))


def their_dpm(steps: int, shift: float, **options):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, **options
    )
    scheduler.set_timesteps(steps)
    return scheduler


def their_euler(steps: int, shift: float):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    return scheduler


def their_unipc(steps: int, shift: float):
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    scheduler.set_timesteps(steps)
    return scheduler


OTHERS = {"euler": their_euler, "unipc": their_unipc}


def run_theirs(scheduler, x: Tensor, first: int = 0, after=lambda x, i: x) -> Tensor:
    scheduler.set_begin_index(first)
    for i, t in enumerate(scheduler.timesteps[first:], first):
        x = scheduler.step(toy_velocity(x, t.expand(x.shape[0])), t, x, return_dict=False)[0]
        x = after(x, i + 1)
    return x


def run_ours(name: str, sigmas: Tensor, x: Tensor, whole: int | None = None) -> Tensor:
    denoise = flow(toy_velocity, SAMPLERS[name].schedule().timesteps)
    *_, last = SAMPLERS[name].steps(denoise, x, sigmas, lambda number: x, whole)
    return last.x


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("steps", [1, 2, 9, 20, 27, 100])
def test_schedules(steps: int, shift: float) -> None:
    theirs = their_dpm(steps, shift)
    ours = flow_sigmas(steps, shift)
    assert torch.equal(ours.float(), theirs.sigmas)
    assert torch.equal(truncated_timesteps(ours[:-1]).long(), theirs.timesteps)
    assert torch.allclose(euler_sigmas(steps, shift).float(), their_euler(steps, shift).sigmas, atol=1e-7, rtol=0)


NAMED = {
    "dpmpp_1s": {"solver_order": 1},
    "dpmpp_2m": {},
    "dpmpp_2m_heun": {"solver_type": "heun"},
    "dpmpp_3m": {"solver_order": 3},
    "dpmpp_3m_heun": {"solver_order": 3, "solver_type": "heun"},
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if not sampler.renoises])
def test_samplers(name: str, steps: int, shift: float) -> None:
    theirs = OTHERS[name](steps, shift) if name in OTHERS else their_dpm(steps, shift, **NAMED[name])
    ours = run_ours(name, SAMPLERS[name].schedule().sigmas(steps, shift), X)
    assert (ours - run_theirs(theirs, X)).abs().max() < 1e-5


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("euler_at_final", [True, False])
def test_every_setting_of_the_scheduler_without_a_lower_final_order(
    steps: int, order, solver_type, euler_at_final: bool
) -> None:
    settings = {"solver_type": solver_type, "lower_order_final": False}
    theirs = their_dpm(steps, 3.0, solver_order=order, euler_at_final=euler_at_final, **settings)
    *_, last = dpmpp(flow(toy_velocity, truncated_timesteps), X, flow_sigmas(steps, 3.0), order=order, **settings)
    assert (last.x - run_theirs(theirs, X)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_heun", "dpmpp_3m", "dpmpp_3m_heun", "euler"])
@pytest.mark.parametrize(("steps", "strength"), [(20, 0.6), (20, 0.33), (7, 0.5), (3, 0.1), (20, 1.0)])
def test_image_to_image(name: str, steps: int, strength: float) -> None:
    scheduler = their_euler(steps, 3.0) if name == "euler" else their_dpm(steps, 3.0, **NAMED[name])
    pipeline = import_module("diffusers.pipelines.sana.pipeline_sana_sprint_img2img").SanaSprintImg2ImgPipeline
    holder = type("Holder", (), {"scheduler": scheduler})()
    timesteps, left = pipeline.get_timesteps(holder, steps, strength, "cpu")
    sigmas = tail(SAMPLERS[name].schedule().sigmas(steps, 3.0), strength)
    assert len(sigmas) - 1 == left

    picture = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    noised = getattr(scheduler, "scale_noise" if name == "euler" else "add_noise")
    args = (picture, timesteps[:1], X) if name == "euler" else (picture, X, timesteps[:1])
    start = add_noise(picture, X, sigmas[0])
    assert torch.allclose(start, noised(*args), atol=1e-6)
    ours = run_ours(name, sigmas, start, steps)
    assert (ours - run_theirs(scheduler, noised(*args), steps - left)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "euler"])
def test_inpainting_by_writing_back_after_every_step(name: str) -> None:
    known = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(5, 6)
    mask[:, 2:] = 1
    scheduler = their_euler(20, 3.0) if name == "euler" else their_dpm(20, 3.0, **NAMED[name])
    schedule = SAMPLERS[name].schedule()
    sigmas = schedule.sigmas(20, 3.0)
    start = add_noise(known, X, sigmas[0])

    def written_back(x: Tensor, i: int) -> Tensor:
        return mask * add_noise(known, X, sigmas[i]) + (1 - mask) * x

    theirs = run_theirs(scheduler, start, after=written_back)
    *_, last = SAMPLERS[name].solve(keep(flow(toy_velocity, schedule.timesteps), known, mask), start, sigmas)
    assert (last.x - theirs).abs().max() < 1e-5


def nvlabs_flow_dpm(steps: int, shift: float, x: Tensor) -> Tensor:
    """NVlabs' order-2 multistep solver as its ``time_uniform_flow`` drives it: levels in float32, by way of the noise,
    a timestep that the network truncates, first order at the first and last step. The rest is float64 here, because it
    divides by ``1 - sigma``, which is 0.0003 at first."""
    uniform = 1 - torch.linspace(1.0, 0.001, steps + 1)
    levels = (shift * uniform / (1 + (shift - 1) * uniform)).flip(0)
    t, x = levels.double(), x.double()
    log_snr = torch.log(1 - t) - torch.log(t)
    before = None
    for i in range(steps):
        told = (levels[i] * 1000).expand(x.shape[0]).long().float()
        noise = (1 - t[i]) * toy_velocity(x, told) + x
        x0 = (x - t[i] * noise) / (1 - t[i])
        h = log_snr[i + 1] - log_snr[i]
        step = (1 - t[i + 1]) * torch.expm1(-h)
        moved = t[i + 1] / t[i] * x - step * x0
        if before is not None and i < steps - 1:
            moved = moved - 0.5 * step * (h / (log_snr[i] - log_snr[i - 1])) * (x0 - before)
        x, before = moved, x0
    return x.float()


@pytest.mark.parametrize("steps", [2, 3, 5, 9, 20, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
def test_native_schedule(steps: int, shift: float) -> None:
    schedule = SAMPLERS["dpmpp_2m"].schedule("native")
    *_, last = SAMPLERS["dpmpp_2m"].solve(flow(toy_velocity, schedule.timesteps), X, schedule.sigmas(steps, shift))
    assert (last.x - nvlabs_flow_dpm(steps, shift, X)).abs().max() < 1e-5


@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 40, 50])
def test_levels_of_wans_own_code(steps: int, shift: float) -> None:
    """``fm_solvers_unipc.py`` notes its ends in float32 when it is made and spreads between them when it is asked;
    ``fm_solvers.py`` gets its levels from ``get_sampling_sigmas``."""
    made = torch.from_numpy(1.0 - np.linspace(1, 1 / 1000, 1000)[::-1].copy()).to(torch.float32)
    for name, first, last in (("unipc", made[0].item(), made[-1].item()), ("dpmpp_2m", 1, 0)):
        spread = np.linspace(first, last, steps + 1)[:-1]
        theirs = shift * spread / (1 + (shift - 1) * spread)
        schedule = SAMPLERS[name].schedule("wan")
        ours = schedule.sigmas(steps, shift)
        assert float(ours[-1]) == 0 and np.abs(ours[:-1].numpy() - theirs).max() < 1e-12
        told = schedule.timesteps(ours[:-1]).long().numpy()
        assert (told == (theirs * 1000).astype(np.int64)).all()
        assert told[0] == (999 if name == "unipc" else 1000)


def test_steps_of_each_expert_by_wans_own_levels() -> None:
    for shift, boundary, high in ((12.0, 0.875, 26), (5.0, 0.9, 15)):
        for name in ("unipc", "dpmpp_2m"):
            schedule = SAMPLERS[name].schedule("wan")
            told = schedule.timesteps(schedule.sigmas(40, shift)[:-1])
            assert int((told >= 1000 * boundary).sum()) == high


@pytest.mark.parametrize("steps", [1, 5, 28])
def test_native_euler(steps: int) -> None:
    schedule = SAMPLERS["euler"].schedule("native")
    *_, last = SAMPLERS["euler"].solve(flow(toy_velocity, schedule.timesteps), X, schedule.sigmas(steps, 6.0))
    scheduler, x = their_euler(steps, 3.0), X
    for t in scheduler.timesteps:
        x = scheduler.step(toy_velocity(x, t.long().float().expand(x.shape[0])), t, x, return_dict=False)[0]
    assert (last.x - x).abs().max() < 1e-5


@pytest.mark.parametrize(("scale", "pag_scale"), [(4.5, 3.0), (1.0, 2.0), (0.0, 2.0)])
def test_perturbed_attention_guidance(scale: float, pag_scale: float) -> None:
    mixin = import_module("diffusers.pipelines.pag.pag_utils").PAGMixin()
    mixin._pag_scale, mixin._pag_adaptive_scale, mixin.pag_applied_layers = pag_scale, 0.0, ["blocks.8"]
    sigma = torch.tensor(0.6)
    parts = [*([uncond] if scale > 1 else []), cond, perturbed]
    stacked = torch.cat([part(X, sigma) for part in parts])
    theirs = mixin._apply_perturbed_attention_guidance(stacked, scale > 1, scale, 600)
    assert torch.allclose(guided(joint_of(*parts), scale, pag_scale)(X, sigma), theirs, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("norm_threshold", [0.0, 2.5])
def test_adaptive_projected_guidance(eta: float, norm_threshold: float) -> None:
    published = import_module("diffusers.guiders.adaptive_projected_guidance")
    buffer = published.MomentumBuffer(-0.5)
    ours = apg_batched(joint_of(uncond, cond), 6.0, eta=eta, norm_threshold=norm_threshold, momentum=-0.5)
    for level in (0.9, 0.6, 0.2):
        sigma = torch.tensor(level)
        theirs = published.normalized_guidance(
            cond(X, sigma), uncond(X, sigma), 5.0, buffer, eta, norm_threshold, use_original_formulation=True
        )
        assert torch.allclose(ours(X, sigma), theirs, atol=2e-5)
