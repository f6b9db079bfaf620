"""Continuous-time consistency distillation (sCM, arXiv 2410.11081), as SANA-Sprint has it (arXiv 2503.09641): a
student whose every prediction is a finished picture, from a guided teacher's direction at one place.

Both are flow networks, seen as TrigFlow ones (``sampling.prediction.trig_from_flow``). States are of deviation one:
``u = cos(t) x0 + sin(t) noise``, and published formulas' ``x_t`` is ``DEVIATION u``, their ``F`` is ours.

B batch, C latent channels, h/w latent height and width, S text tokens, E text width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from frolic.config import Count, Section
from frolic.nn.embed import sinusoid
from frolic.sampling.prediction import Velocity, per_sample, trig_from_flow, trig_level, trig_scale
from frolic.sampling.schedules import TRAIN_STEPS
from frolic.train.device import forget_casts
from frolic.train.objectives.base import Batch, Source
from frolic.train.objectives.trajectory import TrajectorySettings, distance, solve

DEVIATION = 0.5
"""Of the data, in published TrigFlows."""
_SOFTEN = 0.1
_FEATURES = 64


class ConsistencySettings(Section):
    """Times are ``atan(exp(n) / DEVIATION)`` of a normal ``n`` (``mean``, ``deviation``). ``guidance``: the scales of
    the teacher, each as often, which the student is told. ``warmup``: the updates over which the unstable part of the
    tangent comes in. ``tangent``: the precision of the student's derivative, whatever the trainer's is; or
    ``difference``, which is no derivative but a difference over ``span`` of time, in the trainer's precision: half the
    work, as in consistency models of discrete time (arXiv 2303.01469). With ``trajectory`` there are no tangents: the
    student learns the ends of the teacher's trajectories instead (``trajectory.py``)."""

    mean: float = 0.2
    deviation: Annotated[float, Field(gt=0)] = 1.6
    guidance: Annotated[list[Annotated[float, Field(ge=0, le=100)]], Field(min_length=1)] = [4.0, 4.5, 5.0]
    warmup: Count = 4000
    tangent: Literal["fp32", "bf16", "difference"] = "fp32"
    span: Annotated[float, Field(gt=0, lt=1)] = 0.05
    trajectory: TrajectorySettings | None = None


def drawn_times(count: int, mean: float, deviation: float, generator: torch.Generator) -> Tensor:
    """``[count]`` TrigFlow times between 0 and pi/2."""
    normal = torch.randn(count, generator=generator) * deviation + mean
    return (normal.exp() / DEVIATION).atan()


def state_at(x0: Tensor, noise: Tensor, time_B: Tensor) -> Tensor:
    """``u = cos(t) x0 + sin(t) noise`` [B, ...]."""
    return per_sample(time_B.cos(), x0) * x0 + per_sample(time_B.sin(), x0) * noise


def tangent(u: Tensor, time_B: Tensor, field: Tensor, change: Tensor, teacher: Tensor, share: float) -> Tensor:
    """What the student's prediction is moved by [B, ...]: sCM's ``g``, of length below 1 in each sample.

    ``field`` is the student's ``F`` at ``u``, ``teacher`` the guided teacher's, and ``change`` the derivative of the
    former along ``cos(t) sin(t)`` times the latter, in ``u``, and ``cos(t) sin(t)``, in the time. ``share`` (0 to 1) of
    the part that this derivative is in.
    """
    cos, sin = per_sample(time_B.cos(), u), per_sample(time_B.sin(), u)
    steady = -cos.square() * DEVIATION * (field - teacher)
    restless = -cos * sin * DEVIATION * u - DEVIATION * change
    g = steady + share * restless
    return g / (g.flatten(1).norm(dim=1).reshape(-1, *[1] * (u.ndim - 1)) + _SOFTEN)


def consistency_loss(field: Tensor, g: Tensor, time_B: Tensor, log_variance_B: Tensor) -> Tensor:
    """``mean(e^-v / (DEVIATION tan t) |F - F^- - g|^2 + v)`` with ``v`` the learned ``log_variance``; ``F^-`` is the
    value of ``field``, which is ``F``, so that only ``g`` is left of the difference and has its gradient."""
    weight = per_sample((-log_variance_B).exp() / (DEVIATION * time_B.tan()), field)
    return (weight * (field - field.detach() - g).square()).mean() + log_variance_B.mean()


class Uncertainty(nn.Module):
    """The logarithm of how far predictions are off at each time, learned beside the student: it evens out what the
    times weigh (Karras et al. 2024, arXiv 2312.02696).  ``[B] -> [B]``."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(_FEATURES, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, time_B: Tensor) -> Tensor:
        features = sinusoid(10 * trig_level(time_B), _FEATURES).to(self.out.weight.dtype)
        return full(self.out(features))[:, 0]


def full(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is where that is more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Stepped:
    """A source whose batches say which ``step`` [B] of the run they are for."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def batch(self, step: int, size: int, generator: torch.Generator) -> Batch:
        return {**self.source.batch(step, size, generator), "step": torch.full((size,), step)}


class Consistency:
    """The sCM loss of ``student``, a transformer that is told levels and a guidance scale, against ``teacher``, one
    that is told timesteps to 1000 and stays as it is. ``null_text`` [1, S, E] and ``null_mask`` [1, S]: what the
    teacher is guided away from."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        settings: ConsistencySettings,
        null_text: Tensor,
        null_mask: Tensor,
        draw: Callable[[nn.Module], Tensor] | None = None,
    ) -> None:
        self.student = student
        self.teacher = teacher.requires_grad_(False).eval()
        self.uncertainty = Uncertainty()
        self.settings = settings
        self.null = null_text, null_mask
        self.draw = draw
        # Forward derivatives are counted by the process, and the trainer's passes are threads.
        self._derivatives = Lock()

    def modules(self) -> Mapping[str, nn.Module]:
        return {"transformer": self.student, "uncertainty": self.uncertainty}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``latents`` [B, C, h, w] of about unit deviation, ``text`` [B, S, E], ``mask`` [B, S], ``step`` [B]."""
        if self.settings.trajectory is not None:
            return self.ends(batch, generator, self.settings.trajectory)
        x0, text, mask = full(batch["latents"]), batch["text"], batch["mask"]
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        time = drawn_times(len(x0), self.settings.mean, self.settings.deviation, generator).to(x0)
        scale = self.scales(len(x0), generator).to(x0)
        u = state_at(x0, noise, time)
        predicted = trig_from_flow(self.predict(text, mask, scale))
        with torch.no_grad():
            guided = trig_from_flow(self.guided(text, mask, scale))(u, time)
        if self.settings.tangent == "difference":
            field = predicted(u, time)
            before = field.detach()
            with torch.no_grad():
                change = self.difference(u, time, before, guided, text, mask, scale)
        else:
            with torch.no_grad():
                before, change = self.derivative(u, time, guided, text, mask, scale)
            forget_casts()
            # Last, so that its graph is not held while the derivative is made.
            field = predicted(u, time)
        share = 1.0 if not self.settings.warmup else min(1.0, int(batch["step"][0]) / self.settings.warmup)
        g = tangent(u, time, before, change, guided, share)
        loss = consistency_loss(field, g, time, self.uncertainty(time))
        return loss, {
            "consistency": loss.detach(),
            "tangent": g.flatten(1).norm(dim=1).mean(),
            "change": change.flatten(1).norm(dim=1).mean(),
            "from_teacher": (before - guided).square().mean(),
        }

    def ends(
        self, batch: Batch, generator: torch.Generator, settings: TrajectorySettings
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the teacher's trajectories from a batch as ``loss`` takes it."""
        some = math.ceil(settings.share * len(batch["latents"]))
        x0, text, mask = full(batch["latents"][:some]), batch["text"][:some], batch["mask"][:some]
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        time = self.starts(len(x0), settings.noisiest, generator).to(x0)
        scale = self.scales(len(x0), generator).to(x0)
        with torch.no_grad():
            field = trig_from_flow(self.guided(text, mask, scale))
            states, times, end = solve(field, state_at(x0, noise, time), time, settings)
        count = len(states)
        texts, masks = text.repeat(count, 1, 1), mask.repeat(count, 1)
        found = self.finished(states.flatten(0, 1), times.flatten(), texts, masks, scale.repeat(count))
        far, off = distance(found, end.repeat(count, *[1] * (end.ndim - 1)))
        return far.mean(), {"ends": off.mean(), "ends_of_starts": off[: len(x0)].mean()}

    def starts(self, count: int, noisiest: float, generator: torch.Generator) -> Tensor:
        """``[count]`` times, of which a share (``noisiest``) is that of noise alone."""
        time = drawn_times(count, self.settings.mean, self.settings.deviation, generator)
        alone = torch.rand(count, generator=generator) < noisiest
        return torch.where(alone, torch.tensor(math.pi / 2), time)

    def scales(self, count: int, generator: torch.Generator) -> Tensor:
        """``[count]`` guidance scales."""
        known = torch.tensor(self.settings.guidance)
        return known[torch.randint(len(known), (count,), generator=generator)]

    def predict(self, text: Tensor, mask: Tensor, scale_B: Tensor) -> Velocity:
        """The student's velocity of a flow's state and level."""
        return lambda x, level_B: full(self.student(x, level_B, text, mask, guidance_B=scale_B))

    def guided(self, text: Tensor, mask: Tensor, scale_B: Tensor) -> Velocity:
        """The teacher's, guided as much as ``scale`` says."""
        null_text = self.null[0].to(text).expand(len(text), -1, -1)
        null_mask = self.null[1].to(mask).expand(len(mask), -1)
        texts, masks = torch.cat([null_text, text]), torch.cat([null_mask, mask])

        def velocity(x: Tensor, level_B: Tensor) -> Tensor:
            t = (TRAIN_STEPS * level_B).repeat(2)
            away, towards = full(self.teacher(torch.cat([x, x]), t, texts, masks)).chunk(2)
            return away + per_sample(scale_B, x) * (towards - away)

        return velocity

    def derivative(
        self, u: Tensor, time_B: Tensor, direction: Tensor, text: Tensor, mask: Tensor, scale_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The student's ``F`` at ``u``, and its derivative along ``direction`` in ``u`` and 1 in the time, both times
        ``cos(t) sin(t)``, by forward-mode differentiation."""
        half = self.settings.tangent == "bf16"
        with self._derivatives, torch.autocast(u.device.type, torch.bfloat16, enabled=half):
            speed = time_B.cos() * time_B.sin()
            along = (per_sample(speed, u) * direction, speed)
            field = trig_from_flow(self.predict(text, mask, scale_B))
            found: tuple[Tensor, ...] = torch.func.jvp(field, (u, time_B), along)
        return found[0], found[1]

    def difference(
        self,
        u: Tensor,
        time_B: Tensor,
        field: Tensor,
        direction: Tensor,
        text: Tensor,
        mask: Tensor,
        scale_B: Tensor,
    ) -> Tensor:
        """What ``derivative`` gives second, from ``field``, the ``F`` at ``u``, and that at a time ``span`` earlier, to
        which ``u`` is moved along ``direction``; of less than twice ``span``, half way to none."""
        span = (time_B / 2).clamp_max(self.settings.span)
        there = u - per_sample(span, u) * direction
        earlier = trig_from_flow(self.predict(text, mask, scale_B))(there, time_B - span)
        return per_sample(time_B.cos() * time_B.sin() / span, u) * (field - earlier)

    def finished(self, u: Tensor, time_B: Tensor, text: Tensor, mask: Tensor, scale_B: Tensor) -> Tensor:
        """The picture [B, ...] that the student sees in ``u``: ``cos(t) u - sin(t) F``, which of the flow is
        ``x - s v``."""
        level = trig_level(time_B)
        x = u * per_sample(trig_scale(level), u)
        return x - per_sample(level, x) * self.predict(text, mask, scale_B)(x, level)

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None if self.draw is None else self.draw(modules["transformer"])
