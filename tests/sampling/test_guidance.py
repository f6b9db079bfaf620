from __future__ import annotations

import pytest
import torch
from torch import Tensor

from frolic.sampling.guidance import (
    apg_batched,
    branches,
    cfg,
    cfg_batched,
    guided,
    interval,
    keep,
    pag_batched,
)
from frolic.sampling.prediction import add_noise, flow
from frolic.sampling.schedules import tail
from frolic.sampling.solvers import SAMPLERS
from toys import cond, joint_of, perturbed, toy_velocity, uncond

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
SIGMA = torch.tensor(0.7)


def never(x: Tensor, sigma: Tensor) -> Tensor:
    raise AssertionError("this branch costs time and is not wanted")


def test_guidance_as_one_call_equals_two() -> None:
    joint = joint_of(uncond, cond)
    assert torch.allclose(cfg(cond, uncond, 4.5)(X, SIGMA), cfg_batched(joint, 4.5)(X, SIGMA))
    assert torch.allclose(cfg(cond, uncond, 1.0)(X, SIGMA), cond(X, SIGMA), atol=1e-6)
    assert torch.allclose(cfg(cond, uncond, 0.0)(X, SIGMA), uncond(X, SIGMA))


@pytest.mark.parametrize(
    ("scale", "pag_scale", "wanted"),
    [
        (4.5, 3.0, ("uncond", "cond", "perturbed")),
        (4.5, 0.0, ("uncond", "cond")),
        (1.0, 3.0, ("cond", "perturbed")),
        (0.0, 0.0, ("cond",)),
    ],
)
def test_a_joint_call_holds_only_what_is_used(scale: float, pag_scale: float, wanted: tuple[str, ...]) -> None:
    parts = {"uncond": uncond, "cond": cond, "perturbed": perturbed}
    assert branches(scale, pag_scale) == wanted
    got = guided(joint_of(*[parts[name] for name in wanted]), scale, pag_scale)(X, SIGMA)
    expected = cond(X, SIGMA) + pag_scale * (cond(X, SIGMA) - perturbed(X, SIGMA))
    if scale > 1:
        expected = expected + (scale - 1) * (cond(X, SIGMA) - uncond(X, SIGMA))
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    "denoise",
    [
        cfg_batched(joint_of(uncond, cond), 4.5),
        pag_batched(joint_of(uncond, cond, perturbed), 4.5, 3.0),
        pag_batched(joint_of(cond, perturbed), 1.0, 3.0),
        interval(cond, uncond, 0.4, 0.8),
    ],
)
def test_a_level_per_sample_is_the_same_as_one_each(denoise) -> None:
    sigmas = torch.tensor([0.3, 0.7])
    each = [denoise(X[i : i + 1], sigmas[i]) for i in range(2)]
    assert torch.allclose(denoise(X, sigmas), torch.cat(each), atol=1e-6)


def test_interval_calls_one_of_the_two() -> None:
    within, without = interval(cond, never, 0.2, 0.7), interval(never, uncond, 0.2, 0.7)
    assert torch.equal(within(X, torch.tensor(0.7)), cond(X, torch.tensor(0.7)))
    assert torch.equal(within(X, torch.tensor(0.3)), cond(X, torch.tensor(0.3)))
    for level in (0.2, 0.71, 1.0):
        assert torch.equal(without(X, torch.tensor(level)), uncond(X, torch.tensor(level)))


def test_projected_guidance_without_its_parts_is_plain_guidance() -> None:
    joint = joint_of(uncond, cond)
    apg = apg_batched(joint, 4.5, eta=1.0, norm_threshold=0.0, momentum=0.0)
    assert torch.allclose(apg(X, SIGMA), cfg_batched(joint, 4.5)(X, SIGMA), atol=1e-5)


def test_projected_guidance_adds_nothing_along_the_estimate() -> None:
    apg = apg_batched(joint_of(uncond, cond), 4.5, eta=0.0, norm_threshold=0.0, momentum=0.0)
    added = apg(X, SIGMA) - cond(X, SIGMA)
    assert added.abs().max() > 0.1
    assert (added * cond(X, SIGMA)).sum((1, 2, 3)).abs().max() < 1e-3


def test_projected_guidance_is_no_longer_than_its_threshold() -> None:
    apg = apg_batched(joint_of(uncond, cond), 5.0, eta=1.0, norm_threshold=0.5, momentum=0.0)
    assert torch.allclose((apg(X, SIGMA) - cond(X, SIGMA)).flatten(1).norm(dim=1), torch.tensor(4 * 0.5), atol=1e-5)


def test_momentum_belongs_to_one_run() -> None:
    def fresh():
        return apg_batched(joint_of(uncond, cond), 4.5, eta=0.0, norm_threshold=0.0, momentum=-0.5)

    used, new = fresh(), fresh()
    first = used(X, SIGMA)
    assert torch.equal(new(X, SIGMA), first)
    assert not torch.allclose(used(X, SIGMA), first)


def drawn(name: str, x: Tensor, sigmas: Tensor, denoise) -> list[Tensor]:
    return [step.x for step in SAMPLERS[name].solve(denoise, x, sigmas)]


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if not sampler.renoises])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_keeping_is_what_noising_the_known_again_after_every_step_does(name: str, strength: float) -> None:
    generator = torch.Generator().manual_seed(8)
    known, noise = torch.randn(2, 3, 6, 6, generator=generator), torch.randn(2, 3, 6, 6, generator=generator)
    mask = torch.zeros(1, 1, 6, 6)
    mask[..., :, :4] = 1
    schedule = SAMPLERS[name].schedule()
    sigmas = tail(schedule.sigmas(9, 3.0), strength)
    start = add_noise(known, noise, sigmas[0])
    denoise = flow(toy_velocity, schedule.timesteps)
    ours = drawn(name, start, sigmas, keep(denoise, known, mask))

    for x, level in zip(ours, sigmas[1:], strict=True):
        assert ((x - add_noise(known, noise, level)) * mask).abs().max() < 1e-5
    assert torch.equal(ours[-1] * mask, known * mask)
    assert ((ours[-1] - known) * (1 - mask)).abs().max() > 0.1

    def rewritten(x: Tensor, sigma: Tensor) -> Tensor:
        return denoise(mask * add_noise(known, noise, sigma) + (1 - mask) * x, sigma)

    theirs = drawn(name, start, sigmas, rewritten)
    assert torch.allclose(ours[-1] * (1 - mask), theirs[-1] * (1 - mask), atol=2e-5)
