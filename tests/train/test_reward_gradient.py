"""The two-phase gradient of a reward equals the gradient through the whole drawing, on toys, in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frolic.errors import ConfigError
from frolic.models.wan_vae import WanVAE
from frolic.rewards.base import Base
from frolic.sampling.guidance import cfg, experts
from frolic.sampling.influence import influence
from frolic.sampling.prediction import flow
from frolic.sampling.schedules import SCHEDULES
from frolic.sampling.solvers import SAMPLERS, Sampler
from frolic.train.objectives.nft import NFT, NFTSettings
from frolic.train.objectives.reward import Goal, RewardGradient
from frolic.train.objectives.steps import StepChoice, StepSettings
from frolic.types import Denoise
from tiny_wan import vae_config

SHAPE = (3, 4, 4)
SCHEDULE = SCHEDULES["wan"]["unipc"]


class ToyNet(nn.Module):
    """A velocity that depends on everything it is given, in no simple way."""

    def __init__(self, seed: int, channels: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(channels, channels, generator=generator).double() * 0.5)
        self.bias = nn.Parameter(torch.randn(channels, generator=generator).double() * 0.5)

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        mixed = torch.einsum("dc,bc...->bd...", self.weight, x)
        shift = (self.bias + text).view(len(x), -1, *[1] * (x.ndim - 2))
        return torch.tanh(mixed + shift) * (1 + t.view(-1, *[1] * (x.ndim - 1)) / 1000)


class ToyPainter:
    """One or two of ``ToyNet``, guided by 3, whose latents are their pictures, or go through ``decoder``."""

    def __init__(self, nets: Sequence[ToyNet], sampler: str, steps: int, decoder: Any = None) -> None:
        self.nets, self.sampler, self.decoder = nets, SAMPLERS[sampler], decoder
        self.sigmas = SCHEDULE.sigmas(steps, 3.0)
        self.off = False

    def begin(self) -> None:
        pass

    def denoiser(self, text_BSE: Tensor, mask_BS: Tensor) -> Denoise:
        def one(net: ToyNet) -> Denoise:
            def asked(text: Tensor) -> Denoise:
                return flow(lambda x, t: net(x, t.double(), text) * (0.9 if self.off else 1.0), SCHEDULE.timesteps)

            return cfg(asked(text_BSE[:, 0]), asked(torch.zeros_like(text_BSE[:, 0])), 3.0)

        made = [one(net) for net in self.nets]
        return made[0] if len(made) == 1 else experts(made[0], made[1], 0.8, SCHEDULE.timesteps)

    def decode(self, latents: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.decoder is not None:
            pixels: Tensor = self.decoder(latents)
            return pixels.transpose(1, 2) / 2 + 0.5
        return latents[:, None] / 2 + 0.5

    @contextmanager
    def plain(self) -> Iterator[None]:
        self.off = True
        yield
        self.off = False


class Curved(Base):
    """A score that is not linear in any pixel."""

    name = "curved"

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return (frames_BT3HW.sin() * frames_BT3HW.square()).flatten(1).mean(dim=1) * 7


def whole(painter: ToyPainter, noise: Tensor, text: Tensor, chosen: Sequence[int], stop: bool = True) -> Tensor:
    """The loss of a drawing with one graph: velocities of steps that are not chosen are given, and with ``stop`` the
    states at which the chosen ones are asked are too."""
    denoise, asked = painter.denoiser(text, torch.ones(len(text), 1)), 0

    def held(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal asked
        taken = asked in chosen
        asked += 1
        given = x.detach() if stop or not taken else x
        velocity = (given - denoise(given, sigma)) / sigma
        return x - sigma * (velocity if taken else velocity.detach())

    x = painter.sampler.start(noise, painter.sigmas[0])
    for step in painter.sampler.steps(held, x, painter.sigmas, lambda number: noise):
        x = step.x
    score = Curved().score(painter.decode(x, None), [""] * len(text))
    return -(2.0 / 0.5 * score).mean()


def gradients(painter: ToyPainter, chosen: Sequence[int], noise: Tensor, text: Tensor, **more: Any) -> list[Tensor]:
    """By the two phases. Steps stand for themselves only, as in ``whole``."""
    choice = StepChoice.of(StepSettings(choose="list", steps=list(chosen)), [range(len(painter.sigmas) - 1)])
    goal = Goal(Curved(), 2.0, 0.5)
    objective = RewardGradient({}, painter, [goal], choice, ["a", "b"], noise.shape[1:], **more)
    objective.shares = [share * len(chosen) / len(objective.shares) for share in objective.shares]
    batch = {"prompt": torch.tensor([0, 1]), "text": text, "mask": torch.ones(2, 1)}
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn
    try:
        torch.randn = lambda *size, **named: noise  # type: ignore[assignment,misc]
        loss, _ = objective.loss(batch, generator)
    finally:
        torch.randn = draws
    loss.backward()
    return [param.grad.clone() for net in painter.nets for param in net.parameters() if param.grad is not None]


def compare(painter: ToyPainter, chosen: Sequence[int], shape: Sequence[int] = SHAPE, stop: bool = True) -> float:
    """The relative difference of the two gradients."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2, *shape, generator=generator).double()
    text = torch.randn(2, 1, shape[0], generator=generator).double()
    ours = gradients(painter, chosen, noise, text)
    for net in painter.nets:
        net.zero_grad()
    whole(painter, noise, text, chosen, stop).backward()
    theirs = [param.grad for net in painter.nets for param in net.parameters() if param.grad is not None]
    assert len(ours) == len(theirs) and max(float(each.abs().max()) for each in theirs) > 1e-6
    distance = sum(float((a - b).square().sum()) for a, b in zip(ours, theirs, strict=True))
    return (distance / sum(float(b.square().sum()) for b in theirs)) ** 0.5


@pytest.mark.parametrize("sampler", ["euler", "unipc", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_heun", "scm"])
@pytest.mark.parametrize("chosen", [[0], [3], [7], [1, 4, 6]], ids=str)
def test_it_is_the_whole_graphs_for_every_solver(sampler: str, chosen: list[int]) -> None:
    assert compare(ToyPainter([ToyNet(0)], sampler, 8), chosen) < 1e-12


def test_of_two_experts_each_gets_its_own_steps() -> None:
    painter = ToyPainter([ToyNet(0), ToyNet(1)], "unipc", 8)
    reached = int((SCHEDULE.timesteps(painter.sigmas[:-1]) >= 800).sum())
    assert 1 < reached < 7
    assert compare(painter, [1, reached]) < 1e-12


def test_through_a_real_autoencoder() -> None:
    torch.manual_seed(0)
    vae: Any = WanVAE(vae_config()).double()
    shape = (vae.config.latent_channels, 2, 2, 2)
    painter = ToyPainter([ToyNet(0, shape[0])], "euler", 4, lambda z: vae.decode(vae.unscaled(z)))
    assert compare(painter, [1, 3], shape) < 1e-12


def test_where_a_chosen_step_moves_a_later_one_it_is_an_approximation() -> None:
    """The whole graph lets an early step change the state at which a later one is asked; here that state is given.
    For one step nothing is later."""
    several = compare(ToyPainter([ToyNet(0)], "euler", 8), [1, 4, 6], stop=False)
    assert 1e-3 < several < 1
    assert compare(ToyPainter([ToyNet(0)], "euler", 8), [4], stop=False) < 1e-12


def test_eulers_influence_is_its_steps_and_any_is_a_difference() -> None:
    sigmas = SCHEDULE.sigmas(6, 3.0)
    ours = torch.tensor(influence(SAMPLERS["euler"], sigmas), dtype=torch.float64)
    torch.testing.assert_close(ours, sigmas.diff())
    for name, sampler in SAMPLERS.items():
        velocities = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

        def end(values: Tensor, sampler: Sampler = sampler) -> float:
            called = 0

            def denoise(x: Tensor, sigma: Tensor) -> Tensor:
                nonlocal called
                called += 1
                return x - sigma * values[called - 1]

            zero = torch.zeros(1, dtype=torch.float64)
            *_, last = sampler.steps(denoise, zero, sigmas, lambda number: zero)
            return float(last.x)

        expected = float(torch.tensor(influence(sampler, sigmas), dtype=torch.float64) @ velocities)
        assert abs(expected - end(velocities)) < 1e-9, name


@pytest.mark.parametrize("chosen", [[0], [2, 5]], ids=str)
def test_srpos_estimate_is_that_of_one_graph(chosen: list[int]) -> None:
    """What was drawn, noised again by noise that is known; one step of the model, and back along the known noise."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2, *SHAPE, generator=generator).double()
    text = torch.randn(2, 1, SHAPE[0], generator=generator).double()
    painter = ToyPainter([ToyNet(0)], "euler", 8)
    ours = gradients(painter, chosen, noise, text, renoised=True)
    painter.nets[0].zero_grad()
    denoise = painter.denoiser(text, torch.ones(2, 1))
    with torch.no_grad():
        *_, last = painter.sampler.solve(denoise, noise, painter.sigmas)
    loss = torch.zeros((), dtype=torch.float64)
    for step in chosen:
        s, after = painter.sigmas[step], painter.sigmas[step + 1]
        x = (1 - s) * last.x + s * noise
        velocity = (x - denoise(x, s)) / s
        x = x - (s - after) * velocity
        estimate = (x - after * noise) / (1 - after)
        loss = loss - (2.0 / 0.5 * Curved().score(painter.decode(estimate, None), ["", ""])).mean() / len(chosen)
    loss.backward()
    for mine, param in zip(ours, painter.nets[0].parameters(), strict=True):
        assert param.grad is not None
        torch.testing.assert_close(mine, param.grad, rtol=1e-10, atol=1e-12)
    # Where the model is right, the estimate is what was drawn.
    s, after, true = painter.sigmas[3], painter.sigmas[4], noise - last.x
    x = (1 - s) * last.x + s * noise - (s - after) * true
    torch.testing.assert_close((x - after * noise) / (1 - after), last.x)


@pytest.mark.parametrize("objective", ["renoised", "nft"])
def test_the_model_is_asked_at_the_timesteps_of_the_rollout(objective: str) -> None:
    """In float32, level 3 of 10 of this schedule is timestep 875, the high-noise expert's; in the rollout it is 874."""
    schedule, asked = SCHEDULES["wan"]["dpmpp"], []
    painter: Any = ToyPainter([ToyNet(0)], "euler", 8)
    painter.sigmas = schedule.sigmas(10, 3.0)
    timesteps = schedule.timesteps(painter.sigmas[:-1])
    assert float(schedule.timesteps(painter.sigmas[3].float())) != float(timesteps[3])

    def denoiser(text: Tensor, mask: Tensor) -> Denoise:
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            asked.append(float(schedule.timesteps(sigma)))
            return 0.9 * x

        return denoise

    painter.denoiser, painter.reading = denoiser, lambda factors: nullcontext()
    noise, text = torch.randn(2, *SHAPE), torch.zeros(2, 1, 3)
    mask, generator = torch.ones(2, 1), torch.Generator().manual_seed(0)
    if objective == "nft":
        nft = NFT({}, painter, [], ["", ""], NFTSettings(), steps=[3])
        nft._at(noise, text, mask, torch.full((2,), 0.5), generator)
    else:
        batch = {"prompt": torch.tensor([0, 1]), "text": text, "mask": mask}
        choice = StepChoice.of(StepSettings(choose="list", steps=[3]), [range(10)])
        goal = Goal(Curved(), 1.0, 1.0)
        RewardGradient({}, painter, [goal], choice, ["", ""], SHAPE).again(noise, batch, [3], generator)
    assert asked and set(asked) == {float(timesteps[3])}


def test_the_anchor_is_the_distance_from_the_plain_model() -> None:
    generator = torch.Generator().manual_seed(3)
    noise, text = torch.randn(2, *SHAPE, generator=generator).double(), torch.zeros(2, 1, 3).double()
    painter = ToyPainter([ToyNet(0)], "euler", 4)
    free = gradients(painter, [2], noise, text)
    painter.nets[0].zero_grad()
    held = gradients(painter, [2], noise, text, anchor=5.0)
    sigmas = painter.sigmas
    x = noise
    for index, step in enumerate(painter.sampler.solve(painter.denoiser(text, text), noise, sigmas)):
        if index == 2:
            break
        x = step.x.detach()
    painter.nets[0].zero_grad()
    now = (x - painter.denoiser(text, text)(x, sigmas[2])) / sigmas[2]
    with torch.no_grad(), painter.plain():
        before = (x - painter.denoiser(text, text)(x, sigmas[2])) / sigmas[2]
    (5.0 * (now - before).square().mean()).backward()
    for a, b, param in zip(free, held, painter.nets[0].parameters(), strict=True):
        assert param.grad is not None
        torch.testing.assert_close(b - a, param.grad)


class Broken(Base):
    """Scores the first of a batch as not a number."""

    name = "broken"

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        good = frames_BT3HW.flatten(1).mean(dim=1)
        bad = torch.arange(len(good)) < self.rows
        return good * torch.where(bad, torch.nan, 1.0)


@pytest.mark.parametrize("rows", [1, 2])
def test_what_cannot_be_scored_is_left_out_and_counted(rows: int) -> None:
    painter = ToyPainter([ToyNet(0)], "euler", 4)
    choice = StepChoice.of(StepSettings(choose="last"), [range(4)])
    objective = RewardGradient({}, painter, [Goal(Broken(rows), 1.0, 1.0)], choice, ["a", "b"], SHAPE)
    latents = torch.randn(2, *SHAPE).double()
    gradient, scalars = objective.gradient(latents, {"prompt": torch.arange(2)}, torch.Generator())
    assert float(scalars["unscored"]) == rows
    if rows == 1:
        assert float(gradient[0].abs().sum()) == 0 and float(gradient[1].abs().sum()) > 0
    else:
        assert bool(gradient.isnan().all()), "the trainer skips such an update and gives up after some"


def picked(settings: StepSettings, groups: list[range], times: int = 200) -> list[list[int]]:
    choice = StepChoice.of(settings, groups)
    return [choice.pick(torch.Generator().manual_seed(seed)) for seed in range(times)]


def test_ways_to_choose_steps() -> None:
    high, low = range(6), range(6, 10)
    assert picked(StepSettings(choose="last"), [high, low], 1) == [[5, 9]]
    assert picked(StepSettings(choose="tail", count=2), [high, low], 1) == [[4, 5, 8, 9]]
    assert picked(StepSettings(choose="list", steps=[7, 2]), [high, low], 1) == [[2, 7]]
    for way in ("random", "stratified", "uniform"):
        many = picked(StepSettings(choose=way, count=2), [high, low])  # type: ignore[arg-type]
        assert all(len(set(each)) == 4 and sum(step in high for step in each) == 2 for each in many)
        assert {step for each in many for step in each} == set(range(10)), "no step is left out"
    stratified = picked(StepSettings(choose="stratified", count=3), [high])
    assert all(each[0] < 2 <= each[1] < 4 <= each[2] for each in stratified)
    uniform = picked(StepSettings(choose="uniform", count=2), [high])
    assert {each[1] - each[0] for each in uniform} == {3}


@pytest.mark.parametrize(
    ("settings", "groups", "said"),
    [
        (StepSettings(choose="list", steps=[3, 12]), [range(6)], "12"),
        (StepSettings(choose="list"), [range(6)], "empty"),
        (StepSettings(choose="random", steps=[1]), [range(6)], "choose: list"),
        (StepSettings(choose="tail", count=7), [range(6)], "7, of 6"),
        (StepSettings(), [range(0)], "no steps"),
    ],
)
def test_steps_that_cannot_be_chosen(settings: StepSettings, groups: list[range], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        StepChoice.of(settings, groups)
