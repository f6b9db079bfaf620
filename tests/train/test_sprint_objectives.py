"""What SANA-Sprint's training computes, against what is written down: finite differences, formulas, float64 toys."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from frolic.models.sana import SanaConfig, SanaTransformer
from frolic.sampling.prediction import add_noise, flow_from_trig, trig_from_flow, trig_level, trig_scale
from frolic.train.objectives.adversarial import Adversarial, AdversarialSettings, Heads, judged
from frolic.train.objectives.consistency import (
    Consistency,
    ConsistencySettings,
    Stepped,
    consistency_loss,
    drawn_times,
    state_at,
    tangent,
)
from frolic.train.objectives.trajectory import TrajectorySettings, solve

CONFIG = SanaConfig(
    in_channels=4, out_channels=4, heads=4, head_dim=8, layers=3, cross_heads=2, cross_head_dim=16,
    caption_channels=16, sample_size=8,
)  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lively(config: SanaConfig, seed: int = 0) -> SanaTransformer:
    torch.manual_seed(seed)
    net = SanaTransformer(config)
    for parameter in net.parameters():
        if float(parameter.detach().abs().max()) < 1e-3:
            nn.init.normal_(parameter, std=0.1)
    return net


def pair(**changes) -> tuple[SanaTransformer, SanaTransformer]:
    """A student and a teacher of other weights."""
    from dataclasses import replace

    config = replace(CONFIG, **changes)
    return lively(replace(config, guidance_embeds=True), 1), lively(config, 2)


def batch(size: int = 5, tokens: int = 6, step: int = 0) -> dict[str, Tensor]:
    made = generator(3)
    return {
        "latents": torch.randn(size, 4, 4, 6, generator=made),
        "text": torch.randn(size, tokens, 16, generator=made),
        "mask": torch.arange(tokens) < torch.arange(1, size + 1)[:, None],
        "step": torch.full((size,), step),
    }


NULL = torch.zeros(1, 6, 16), torch.arange(6)[None] < 1


def test_the_true_field_of_a_known_picture_is_its_derivative():
    x0, noise = torch.randn(2, 3, 2, 4, 4, generator=generator(), dtype=torch.float64)
    time = torch.tensor([0.01, 0.8, math.pi / 2], dtype=torch.float64)
    field = trig_from_flow(lambda x, level: noise - x0)(state_at(x0, noise, time), time)
    cos, sin = (each.reshape(-1, 1, 1, 1) for each in (time.cos(), time.sin()))
    assert torch.allclose(field, cos * noise - sin * x0, atol=1e-12)


def test_conversions_are_each_others_inverse_and_mean_the_same_state():
    def velocity(x: Tensor, level: Tensor) -> Tensor:
        return torch.tanh(x + level.reshape(-1, 1, 1, 1))

    x = torch.randn(4, 2, 3, 3, generator=generator(), dtype=torch.float64)
    level = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)
    back = flow_from_trig(trig_from_flow(velocity))(x, level)
    assert torch.allclose(back, velocity(x, level), atol=1e-12)
    x0, noise = torch.randn(2, 4, 2, 3, 3, generator=generator(), dtype=torch.float64)
    time = torch.atan2(level, 1 - level)
    scaled = trig_scale(level).reshape(-1, 1, 1, 1) * state_at(x0, noise, time)
    assert torch.allclose(scaled, add_noise(x0, noise, level), atol=1e-12)
    assert torch.allclose(trig_level(time), level, atol=1e-12)


@pytest.mark.parametrize("tokens", [6, 200])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_derivative_is_that_of_finite_differences(qk_norm, tokens):
    """200 tokens are more than the plain products are taken for by themselves, without gradients or with them."""
    student, teacher = pair(qk_norm=qk_norm)
    objective = Consistency(student, teacher, ConsistencySettings(), *NULL)
    given = batch(tokens=tokens)
    u, direction = torch.randn(2, 5, 4, 4, 6, generator=generator())
    time = torch.linspace(0.2, 1.4, 5)
    scale = torch.full((5,), 4.5)
    read = (given["text"], given["mask"], scale)
    speed = time.cos() * time.sin()
    field = trig_from_flow(objective.predict(*read))
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            value, change = objective.derivative(u, time, direction, *read)
        step, way = 2e-3, speed.reshape(-1, 1, 1, 1) * direction
        with torch.no_grad():
            ahead, behind = (field(u + h * way, time + h * speed) for h in (step, -step))
            wanted = (ahead - behind) / (2 * step)
            assert torch.allclose(value, field(u, time), atol=1e-5)
            assert float(wanted.abs().max()) > 0.1
            # Between the two places ReLUs of some tokens turn, so it is the root of the mean square that is compared.
            off = (change - wanted).square().mean() / wanted.square().mean()
            assert float(off.sqrt()) < 1e-2


def test_over_a_short_time_the_difference_is_the_derivative():
    student, teacher = Toy(1), Toy(2)
    null = torch.zeros(1, 2, 1, dtype=torch.float64), torch.tensor([[True, False]])
    u, direction = torch.randn(2, 4, 3, 2, 2, generator=generator(), dtype=torch.float64)
    time = torch.tensor([0.02, 0.7, 1.4, math.pi / 2], dtype=torch.float64)
    read = torch.randn(4, 2, 1, dtype=torch.float64), torch.ones(4, 2, dtype=torch.bool), torch.full((4,), 4.0)
    off = []
    for span in (1e-6, 1e-3, 2e-3):
        objective = Consistency(
            student, teacher, ConsistencySettings(tangent="difference", span=span, guidance=[4.0]), *null
        )
        with torch.no_grad():
            value, change = objective.derivative(u, time, direction, *read)
            off.append(float((objective.difference(u, time, value, direction, *read) - change).norm() / change.norm()))
    assert off[0] < 1e-5 and 1.9 < off[2] / off[1] < 2.1, "an error in proportion to the span"


class Toy(nn.Module):
    """A small network in float64 that is told a level, a text and, where it is a student, a scale."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner = nn.Linear(6, 16, dtype=torch.float64)
        self.outer = nn.Linear(16, 3, dtype=torch.float64)

    def forward(self, x, level, text, mask, guidance_B=None):
        level = level / 1000 if guidance_B is None else level
        scale = torch.zeros_like(level) if guidance_B is None else guidance_B.to(x)
        about = torch.stack([level, scale / 5, (text[..., 0] * mask).sum(dim=1)], dim=1)
        tokens = x.flatten(2).transpose(1, 2)
        h = torch.tanh(self.inner(torch.cat([tokens, about[:, None].expand(-1, tokens.shape[1], -1)], dim=-1)))
        return self.outer(h).transpose(1, 2).reshape(x.shape)


def test_the_gradient_is_that_of_the_written_formula():
    """sCM's equation with SANA-Sprint's constants, in published coordinates (x_t of deviation 0.5), written out anew:
    the derivative by finite differences, the gradient as -2 w g back through F."""
    student, teacher = Toy(1), Toy(2)
    settings = ConsistencySettings(warmup=10, guidance=[4.0, 5.0])
    null = torch.zeros(1, 2, 1, dtype=torch.float64), torch.tensor([[True, False]])
    objective = Consistency(student, teacher, settings, *null)
    made = generator(5)
    x0 = torch.randn(4, 3, 2, 2, generator=made, dtype=torch.float64)
    text, mask = torch.randn(4, 2, 1, generator=made, dtype=torch.float64), torch.ones(4, 2, dtype=torch.bool)
    with torch.no_grad():
        objective.uncertainty.double().out.bias.fill_(0.7)
    loss, scalars = objective.loss(
        {"latents": x0, "text": text, "mask": mask, "step": torch.full((4,), 3)}, generator()
    )
    loss.backward()
    got = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}

    again = generator()
    noise = torch.randn(x0.shape, generator=again).double()
    t = torch.atan(torch.exp(torch.randn(4, generator=again) * 1.6 + 0.2) / 0.5).double()
    w = torch.tensor([4.0, 5.0])[torch.randint(2, (4,), generator=again)].double()
    col = (slice(None), None, None, None)
    z = 0.5 * noise
    x_t = t.cos()[col] * 0.5 * x0 + t.sin()[col] * z

    def trigflow(velocity, x_t, t):
        s = t.sin() / (t.cos() + t.sin())
        x = x_t / 0.5 * torch.sqrt(s**2 + (1 - s) ** 2)[col]
        mixed = (1 - 2 * s)[col] * x + (1 - 2 * s + 2 * s**2)[col] * velocity(x, s)
        return mixed / torch.sqrt(s**2 + (1 - s) ** 2)[col]

    def f_student(x_t, t):
        return trigflow(lambda x, s: student(x, s, text, mask, guidance_B=w), x_t, t)

    def f_teacher(x_t, t, text, mask):
        return trigflow(lambda x, s: teacher(x, 1000 * s, text, mask), x_t, t)

    with torch.no_grad():
        away = f_teacher(x_t, t, null[0].expand(4, -1, -1), null[1].expand(4, -1))
        dx = 0.5 * (away + w[col] * (f_teacher(x_t, t, text, mask) - away))
        both = (t.cos() * t.sin())[col]
        h = 1e-5
        d_f = (
            f_student(x_t + h * both * dx, t + h * both[:, 0, 0, 0])
            - f_student(x_t - h * both * dx, t - h * both[:, 0, 0, 0])
        ) / (2 * h)
        minus = f_student(x_t, t)
        g = -(t.cos()[col] ** 2) * (0.5 * minus - dx) - 0.3 * (both * x_t + 0.5 * d_f)
        g = g / (g.flatten(1).norm(dim=1)[col] + 0.1)
        weight = (1 / (0.5 * t.tan()))[col] * math.exp(-0.7)
    wanted = torch.autograd.grad(
        f_student(x_t, t), list(student.parameters()), grad_outputs=-2 * weight * g / g.numel()
    )
    for (name, grad), other in zip(got.items(), wanted, strict=True):
        assert torch.allclose(grad, other, rtol=1e-7, atol=1e-12), name
    assert torch.allclose(loss, (weight * g.square()).mean() + 0.7, rtol=1e-8)
    assert torch.allclose(scalars["tangent"], g.flatten(1).norm(dim=1).mean(), rtol=1e-8)


def test_a_student_that_is_finished_and_its_teachers_has_no_tangent_left():
    """Where F is constant along the way and points as the teacher does, only the weighting's own terms remain."""
    u, time = torch.zeros(2, 1, 2, 2), torch.tensor([0.5, 1.0])
    same = torch.ones_like(u)
    assert torch.equal(tangent(u, time, same, torch.zeros_like(u), same, 1.0), torch.zeros_like(u))
    long = tangent(u, time, 100 * same, torch.zeros_like(u), same, 1.0)
    assert bool((long.flatten(1).norm(dim=1) < 1).all()) and bool((long < 0).all()), "towards the teacher"
    loss = consistency_loss(same, torch.zeros_like(u), time, torch.tensor([0.2, 0.4]))
    assert abs(float(loss) - 0.3) < 1e-6


class Normal(nn.Module):
    """The flow's true velocity for data that is normal, of which everything is known."""

    mean, deviation = 1.5, 0.4

    def forward(self, x, t, text, mask):
        s = (t / 1000)[:, None, None, None]
        off = x - (1 - s) * self.mean
        variance = (1 - s) ** 2 * self.deviation**2 + s**2
        return s / variance * off - self.mean - (1 - s) * self.deviation**2 / variance * off


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, x, level, text, mask, guidance_B):
        about = level[:, None, None, None].expand_as(x)
        return self.net(torch.cat([x, about], dim=1).movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize("kind", ["fp32", "difference"])
def test_one_step_of_the_student_becomes_all_steps_of_the_teacher(kind):
    """A flow of normal data takes noise to ``mean + deviation noise``; a step of the teacher takes it to the mean."""
    torch.manual_seed(0)
    student, teacher = Small(), Normal()
    settings = ConsistencySettings(warmup=100, guidance=[1.0], tangent=kind)
    objective = Consistency(student, teacher, settings, torch.zeros(1, 1, 1), torch.ones(1, 1) > 0)
    read = torch.zeros(256, 1, 1), torch.ones(256, 1, dtype=torch.bool)
    noise = torch.randn(256, 1, 1, 1)
    ends = teacher.mean + teacher.deviation * noise

    def off() -> float:
        with torch.no_grad():
            found = objective.finished(noise, torch.full((256,), 1.57), *read, torch.ones(256))
        return float((found - ends).square().mean().sqrt())

    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    for _ in range(250):  # first what a teacher's weights would be
        x0, x1, level = (torch.randn(256, 1, 1, 1), torch.randn(256, 1, 1, 1), torch.rand(256))
        x = add_noise(teacher.mean + teacher.deviation * x0, x1, level)
        optimizer.zero_grad()
        (student(x, level, *read, None) - teacher(x, 1000 * level, *read)).square().mean().backward()
        optimizer.step()
    assert off() > 0.3
    optimizer = torch.optim.Adam([*student.parameters(), *objective.uncertainty.parameters()], lr=1e-3)
    for step in range(250):
        x0 = teacher.mean + teacher.deviation * torch.randn(256, 1, 1, 1)
        given = {"latents": x0, "text": read[0], "mask": read[1], "step": torch.full((256,), step)}
        optimizer.zero_grad()
        objective.loss(given, generator(step))[0].backward()
        optimizer.step()
    assert off() < 0.15


def test_trajectories_end_where_the_teacher_does_and_the_student_learns_to_see_it():
    """Of normal data the way is known: from ``u`` at time ``t`` to ``mean + deviation (u - cos t mean) / s``, ``s`` the
    deviation of ``u``."""
    torch.manual_seed(0)
    student, teacher = Small(), Normal()
    asked = TrajectorySettings(steps=40, bend=1.5)
    settings = ConsistencySettings(guidance=[1.0], trajectory=asked)
    objective = Consistency(student, teacher, settings, torch.zeros(1, 1, 1), torch.ones(1, 1) > 0)
    x0, noise = (torch.randn(256, 1, 1, 1, generator=generator(seed)) for seed in (1, 2))
    time = torch.linspace(0.1, math.pi / 2, 256)
    read = torch.zeros(256, 1, 1), torch.ones(256, 1, dtype=torch.bool)
    u = state_at(teacher.mean + teacher.deviation * x0, noise, time)

    def ends(u: Tensor, time: Tensor) -> Tensor:
        cos, sin = time.cos().reshape(-1, 1, 1, 1), time.sin().reshape(-1, 1, 1, 1)
        return (
            teacher.mean
            + teacher.deviation * (u - cos * teacher.mean) / ((cos * teacher.deviation) ** 2 + sin**2).sqrt()
        )

    with torch.no_grad():
        field = trig_from_flow(objective.guided(*read, torch.ones(256)))
        states, times, end = solve(field, u, time, asked)
        coarse = solve(field, u, time, TrajectorySettings(steps=10, bend=1.5))[2]
    assert states.shape == (40, 256, 1, 1, 1) and torch.equal(times[0], time) and torch.equal(states[0], u)
    error = float((end - ends(u, time)).abs().max())
    assert error < 1e-2 and 8 * error < float((coarse - ends(u, time)).abs().max()), "of the second order"
    assert torch.allclose(ends(states[20], times[20]), end, atol=1e-2), "every state leads to the same end"

    def off() -> float:
        with torch.no_grad():
            found = objective.finished(noise, torch.full((256,), math.pi / 2), *read, torch.ones(256))
        return float((found - ends(noise, torch.full((256,), math.pi / 2))).square().mean().sqrt())

    before = off()
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    for step in range(200):
        given = {"latents": teacher.mean + teacher.deviation * torch.randn(64, 1, 1, 1), "text": read[0][:64]}
        optimizer.zero_grad()
        loss, scalars = objective.loss(
            {**given, "mask": read[1][:64], "step": torch.full((64,), step)}, generator(step)
        )
        loss.backward()
        optimizer.step()
    assert off() < 0.1 < before
    assert 0 < float(scalars["ends_of_starts"]) < 0.05


def test_the_restless_part_comes_in_slowly():
    student, teacher = pair()
    objective = Consistency(student, teacher, ConsistencySettings(warmup=4), *NULL)
    lengths = [float(objective.loss(batch(step=step), generator())[1]["tangent"]) for step in (0, 2, 4, 400)]
    assert lengths[2] == lengths[3] and len(set(lengths)) == 3


def test_times_are_where_they_are_asked_for():
    times = drawn_times(20000, 0.2, 1.6, generator())
    assert float(times.min()) > 0 and float(times.max()) < math.pi / 2
    assert abs(float((0.5 * times.tan()).log().mean()) - 0.2) < 0.05
    assert abs(float((0.5 * times.tan()).log().std()) - 1.6) < 0.05


def adversarial(**changes) -> Adversarial:
    student, teacher = pair()
    asked = AdversarialSettings(blocks=[0, 2], width=8, **changes)
    torch.manual_seed(9)
    return Adversarial(student, teacher, ConsistencySettings(), asked, *NULL)


def learned(objective: Adversarial, step: int) -> set[str]:
    """Which modules a step's gradient reaches."""
    for module in objective.modules().values():
        module.zero_grad()
    loss, _ = objective.loss(batch(step=step), generator())
    loss.backward()
    return {
        name
        for name, module in objective.modules().items()
        if any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())
    }


def test_student_and_heads_learn_in_turn_and_the_teacher_never():
    objective = adversarial(r1=0.1)
    assert learned(objective, 0) == {"transformer", "uncertainty"}
    assert learned(objective, 1) == {"heads"}
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())


def test_the_opinion_moves_the_student_and_its_weight_counts():
    def gradient(weight: float) -> Tensor:
        objective = adversarial(weight=weight)
        objective.loss(batch(), generator())[0].backward()
        return objective.student.out.weight.grad.clone()

    none, half, whole = (gradient(weight) for weight in (0.0, 0.5, 1.0))
    assert torch.allclose(half - none, (whole - none) / 2, rtol=1e-3, atol=1e-6)
    assert float((whole - none).abs().max()) > 1e-6


def test_the_hinge_and_what_is_misaligned():
    assert judged(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, -3.0])) == 0
    assert judged(torch.tensor([0.0]), torch.tensor([0.5])) == 0.5 * (1 + 1.5)
    with_pairs, without = (adversarial(misaligned=wanted).lesson(batch(), generator())[0] for wanted in (True, False))
    assert with_pairs != without
    one = batch(size=1)
    assert adversarial().lesson(one, generator())[0] == adversarial(misaligned=False).lesson(one, generator())[0]


def test_heads_tell_what_is_taught_them():
    """After some lessons, true pictures look true and the student's do not."""
    objective = adversarial()
    optimizer = torch.optim.AdamW(objective.heads.parameters(), lr=5e-3)
    given = batch(size=16)
    given["latents"] = torch.ones_like(given["latents"]) * 2
    for step in range(60):
        optimizer.zero_grad()
        loss, scalars = objective.lesson(given, generator(step))
        loss.backward()
        optimizer.step()
    assert scalars["true_seen"] > 0.8 and scalars["false_seen"] > 0.8


def test_r1_is_the_square_of_the_slope_at_true_pictures():
    objective = adversarial(r1=2.0)
    loss, scalars = objective.lesson(batch(), generator())
    plain = adversarial().lesson(batch(), generator())[0]
    assert torch.allclose(loss - plain, scalars["steep"], rtol=1e-3), "half of two"
    features, grid = objective.features(batch()["latents"], batch(), generator(1))
    assert features[0].shape == (5, 24, 32) and grid == (4, 6)
    assert Heads([0, 2], 32, 8)(features, grid, learn=False).shape == (5, 48)


def test_a_finished_picture_is_cos_u_minus_sin_f():
    objective = adversarial()
    given, u, time = batch(), torch.randn(5, 4, 4, 6, generator=generator()), torch.linspace(0.1, math.pi / 2, 5)
    read = (given["text"], given["mask"], torch.full((5,), 4.0))
    field = trig_from_flow(objective.predict(*read))(u, time)
    cos, sin = (each.reshape(-1, 1, 1, 1) for each in (time.cos(), time.sin()))
    assert torch.allclose(objective.finished(u, time, *read), cos * u - sin * field, atol=1e-5)


def test_a_batch_says_its_step():
    class Source:
        def batch(self, step, size, generator):
            return {"x": torch.zeros(size)}

    assert Stepped(Source()).batch(7, 3, generator())["step"].tolist() == [7, 7, 7]
