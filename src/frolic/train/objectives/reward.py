"""Train an adapter so that what it draws scores more, by the reward's own gradient.

The gradient goes from the reward through the decoder to the latents, and from there to the velocities of chosen steps,
which is exact where all else that led to the latents counts as given (DRTune, Wu et al. 2024, arXiv 2405.00760):

1. a rollout without gradients, as one would draw, keeping the state at the chosen steps;
2. ``g``, the loss's gradient by the final latents, through the decoder and the rewards alone;
3. of each chosen step, one forward and backward of the model, from its kept state, with the velocity's share of ``g``.

Nothing of 1 is kept but a few latents, so memory does not grow with the number of steps, and at no time are the decoder
and the model's graph held together.

SRPO's estimate (Shen et al. 2025, arXiv 2509.06942) is there beside it: what was drawn is noised again, by noise that
is known, and the reward sees where one step of the model and the rest of the known noise lead.

B batch, C latent channels, S tokens, E text width, T frames, H/W sides of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from frolic.lora.trained import Factors
from frolic.rewards import Reward
from frolic.sampling.influence import influence
from frolic.sampling.prediction import add_noise, per_sample, velocity_of
from frolic.sampling.solvers import Sampler
from frolic.train.device import forget_casts
from frolic.train.objectives.agreement import Agreement
from frolic.train.objectives.steps import StepChoice
from frolic.types import Denoise


class Painter(Protocol):
    """The model whose adapter is trained, and what it needs to draw."""

    sampler: Sampler
    sigmas: Tensor

    def begin(self) -> None:
        """Called before each drawing, when nothing of an earlier one is needed any longer."""
        ...

    def denoiser(self, text_BSE: Tensor, mask_BS: Tensor) -> Denoise:
        """The guided denoiser of these texts, reading the factors in training."""
        ...

    def decode(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """``[B, T, 3, H, W]`` in [0, 1], all of what was drawn or a window of its frames."""
        ...

    def plain(self) -> AbstractContextManager[None]:
        """While it lasts, the model is read without its adapter."""
        ...


@dataclass(frozen=True)
class Goal:
    """A reward, how much it counts, and the deviation of its score over what the plain model draws, which makes scores
    of different scales comparable."""

    reward: Reward
    weight: float
    deviation: float


class RewardGradient:
    """The loss is minus the weighted sum of the rewards, in their deviations, plus ``anchor`` times the squared
    distance of the velocity from the plain model's, which keeps the adapter near what the model knows (the KL
    divergence of a flow model is such a distance, weighted).

    ``disturb`` shows the rewards a slightly other picture than was drawn: ``(frames, generator) -> frames``.
    ``renoised``: SRPO's estimate in place of the drawing's own gradient. ``agreement``: beside the rewards, whether the
    latents show their prompt rather than the others; unlike a reward's, its pull ends where they do.
    """

    def __init__(
        self,
        modules: Mapping[str, Factors],
        painter: Painter,
        goals: Sequence[Goal],
        choice: StepChoice,
        prompts: Sequence[str],
        shape: Sequence[int],
        anchor: float = 0.0,
        disturb: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        renoised: bool = False,
        agreement: Agreement | None = None,
    ) -> None:
        assert goals
        self.agreement = agreement
        self._modules = dict(modules)
        self.painter = painter
        self.goals = goals
        self.choice = choice
        self.prompts = prompts
        self.shape = tuple(shape)
        self.anchor = anchor
        self.disturb = disturb
        self.renoised = renoised
        self.shares = influence(painter.sampler, painter.sigmas)

    def modules(self) -> Mapping[str, nn.Module]:
        return self._modules

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None  # held-out prompts are drawn where they are scored

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``prompt`` [B], numbers of ``prompts``; ``text`` [B, S, E] and ``mask`` [B, S], what they read as; for an
        agreement also what that asks of a batch."""
        text, mask = batch["text"], batch["mask"]
        noise = torch.randn(len(text), *self.shape, generator=generator).to(text.device)
        chosen = self.choice.pick(generator)
        with torch.no_grad():
            latents, kept = rollout(self.painter, noise, text, mask, chosen, generator)
        forget_casts()
        if self.renoised:
            return self.again(latents, batch, chosen, generator)
        gradient, scalars = self.gradient(latents, batch, generator)
        denoise = self.painter.denoiser(text, mask)
        total = latents.new_zeros(())
        # Each of the chosen steps stands for as many as there are of it.
        more = len(self.shares) / len(chosen)
        drift = latents.new_zeros(())
        for step in chosen:
            x, sigma = kept[step]
            velocity = velocity_of(denoise, x, sigma)
            total = total + (velocity * (more * self.shares[step] * gradient)).sum()
            if self.anchor:
                drift = drift + self.drift(velocity, x, sigma, text, mask) / len(chosen)
        scalars["drift"] = drift.detach()
        return total + self.anchor * drift, scalars

    def drift(self, velocity: Tensor, x: Tensor, sigma: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """How far ``velocity`` is from the plain model's, squared."""
        with torch.no_grad(), self.painter.plain():
            before = velocity_of(self.painter.denoiser(text, mask), x, sigma)
        forget_casts()
        return (velocity - before).square().mean()

    def again(
        self,
        latents: Tensor,
        batch: Mapping[str, Tensor],
        chosen: Sequence[int],
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """SRPO's loss of what was drawn, at the noise levels of the ``chosen`` steps. From ``x`` at the level ``s`` the
        step of the model, of length ``d``, leads to ``x - d v``, and the known noise from there to the estimate
        ``(x - d v - (s - d) noise) / (1 - s + d)``, which is what was drawn if the model is right."""
        text, mask = batch["text"], batch["mask"]
        denoise = self.painter.denoiser(text, mask)
        total, drift, found = latents.new_zeros(()), latents.new_zeros(()), []
        for step in chosen:
            # The model is asked as in the rollout, at the level in float64: rounded, it may be of another timestep.
            level, after = self.painter.sigmas[step], self.painter.sigmas[step + 1].to(latents)
            sigma = level.to(latents)
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            x = add_noise(latents, noise, sigma)
            velocity = velocity_of(denoise, x, level)
            moves = (sigma - after) / (1 - after)
            estimate = (x - after * noise) / (1 - after) - moves * velocity.detach()
            gradient, scalars = self.gradient(estimate, batch, generator)
            found.append(scalars)
            total = total - (velocity * (moves * gradient)).sum() / len(chosen)
            if self.anchor:
                drift = drift + self.drift(velocity, x, level, text, mask) / len(chosen)
        means = {name: torch.stack([each[name] for each in found]).mean() for name in found[0]}
        return total + self.anchor * drift, {**means, "drift": drift.detach()}

    def gradient(
        self, latents: Tensor, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss's gradient by the final latents. A sample that a reward cannot score gives none, and is counted; if
        none can be scored, the gradient is not finite, and the trainer skips the update."""
        z = latents.detach().requires_grad_()
        prompts = [self.prompts[number] for number in batch["prompt"].tolist()]
        with torch.enable_grad():
            frames = self.painter.decode(z, generator)
            if self.disturb is not None:
                frames = self.disturb(frames, generator)
            total = z.new_zeros(len(z))
            scalars = {}
            for goal in self.goals:
                score = scored(goal.reward, frames, prompts)
                total = total + goal.weight / goal.deviation * score
                scalars[f"reward_{goal.reward.name}"] = score.detach()
            sound = torch.isfinite(total.detach())
            loss, heard = -total.sum(), {}
            if self.agreement is not None:
                wrong, heard["agreed"] = self.agreement.loss(z, batch, generator)
                loss = loss + self.agreement.settings.weight * len(z) * wrong
            (gradient,) = torch.autograd.grad(loss, z)
        count = int(sound.sum())
        scalars = {**{name: score[sound].mean() for name, score in scalars.items()}, **heard}
        scalars["unscored"] = torch.tensor(float(len(z) - count))
        if not count:
            return torch.full_like(gradient, torch.nan), scalars
        return torch.where(per_sample(sound, gradient).bool(), gradient, 0.0) / count, scalars


def scored(reward: Reward, frames: Tensor, prompts: Sequence[str]) -> Tensor:
    """``reward.score`` in its own precision, whatever the model is trained in: in bfloat16 near scores are alike."""
    with torch.autocast(frames.device.type, enabled=False):
        return reward.score(frames.float() if frames.dtype == torch.bfloat16 else frames, prompts)


def rollout(
    painter: Painter, noise: Tensor, text: Tensor, mask: Tensor, chosen: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """The final latents, and the state and noise level at which the model was asked in each of the ``chosen`` steps.
    ``generator`` gives what a sampler adds on its way, if it adds any."""
    painter.begin()
    denoise = painter.denoiser(text, mask)
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    asked = 0

    def keeping(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal asked
        if asked in chosen:
            kept[asked] = (x, sigma)
        asked += 1
        return denoise(x, sigma)

    def later(number: int) -> Tensor:
        return torch.randn(noise.shape, generator=generator).to(noise)

    x = painter.sampler.start(noise, painter.sigmas[0])
    for step in painter.sampler.steps(keeping, x, painter.sigmas, later):
        x = step.x
    return x, kept
