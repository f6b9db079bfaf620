"""Train an adapter by a reward's scores alone, without its gradient: DiffusionNFT (Zheng et al., arXiv 2509.16117).

Pictures are drawn by a slowly following copy of the adapter, the old policy, and scored. On their noised latents, the
trained velocity is pulled to the data where the score is high, and its mirror image on the other side of the old
velocity where it is low: with ``v+ = (1 - beta) v_old + beta v`` and ``v- = (1 + beta) v_old - beta v``, the loss is
``r |v+ - v*|^2 + (1 - r) |v- - v*|^2`` with r in [0, 1]. No sampler is differentiated, no likelihood estimated.

B batch, C latent channels, S tokens, E text width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from frolic.config import Positive, Section
from frolic.lora.trained import Factors
from frolic.sampling.prediction import add_noise, per_sample, velocity_of
from frolic.train.device import forget_casts
from frolic.train.objectives.reward import Goal, rollout, scored
from frolic.train.painter import ModelPainter


class NFTSettings(Section):
    """``group``: pictures of each prompt, which are compared with each other; a batch holds whole groups. ``beta``: how
    far ``v+`` and ``v-`` lie from the old velocity. ``keep``: how much of the old policy stays at an update. ``times``:
    noise levels at which a picture is trained in an update. ``clip``: the largest advantage, in deviations."""

    group: Annotated[int, Field(ge=2)] = 4
    beta: Annotated[float, Field(gt=0)] = 1.0
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.9
    times: Positive = 2
    clip: Annotated[float, Field(gt=0)] = 3.0


class NFT:
    """The objective. ``old`` is saved with the run, beside what is trained. ``anchor`` holds velocities near the plain
    model's. ``steps``: those whose noise levels are trained, which are the trained expert's; by default all."""

    def __init__(
        self,
        factors: Mapping[str, Factors],
        painter: ModelPainter,
        goals: Sequence[Goal],
        prompts: Sequence[str],
        settings: NFTSettings,
        anchor: float = 0.0,
        steps: Sequence[int] | None = None,
    ) -> None:
        self.steps = range(len(painter.sigmas) - 1) if steps is None else steps
        assert self.steps
        self._followed: int | None = None
        self.factors, self.painter, self.goals = dict(factors), painter, goals
        self.prompts, self.settings, self.anchor = prompts, settings, anchor
        self.old = {name: copy.deepcopy(each).requires_grad_(False) for name, each in factors.items()}

    def modules(self) -> Mapping[str, nn.Module]:
        return {**self.factors, **{f"old_{name}": each for name, each in self.old.items()}}

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``prompt``, ``text`` and ``mask`` as for ``RewardGradient``, of which the first ``B / group`` are used, each
        for a whole group; and ``step`` [B], the update they are for."""
        s = self.settings
        groups = len(batch["prompt"]) // s.group
        assert groups
        rows = torch.arange(groups).repeat_interleave(s.group)
        text, mask = batch["text"][rows], batch["mask"][rows]
        prompts = [self.prompts[number] for number in batch["prompt"][rows].tolist()]
        step = int(batch["step"][0])
        if step != self._followed:  # once in an update, however many passes it has
            self._follow()
            self._followed = step
        noise = torch.randn(len(rows), *self.painter.shape, generator=generator).to(text.device)
        with torch.no_grad(), self.painter.reading(self.old):
            latents, _ = rollout(self.painter, noise, text, mask, [], generator)
            # Every frame is scored, so that no window decides which of a group is best.
            frames = self.painter.decode(latents, None)
        level, scalars = self._optimality(frames, prompts, groups)
        total = latents.new_zeros(())
        for _ in range(s.times):
            total = total + self._at(latents, text, mask, level, generator) / s.times
        return total, scalars

    def _at(self, latents: Tensor, text: Tensor, mask: Tensor, level: Tensor, generator: torch.Generator) -> Tensor:
        """The loss at one noise level of each picture."""
        s = self.settings
        # Of one expert: all of a batch are at one level.
        picked = self.steps[int(torch.randint(len(self.steps), (1,), generator=generator))]
        # As the rollout has it, in float64: rounded, it may lead to another timestep, and to the other expert.
        sigma = self.painter.sigmas[picked]
        fresh = torch.randn(latents.shape, generator=generator).to(latents)
        x, aim = add_noise(latents, fresh, sigma.to(latents)), fresh - latents

        def velocity() -> Tensor:
            return velocity_of(self.painter.denoiser(text, mask), x, sigma)

        with torch.no_grad():
            with self.painter.reading(self.old):
                old = velocity()
            with self.painter.plain():
                plain = velocity() if self.anchor else old
        forget_casts()
        new = velocity()
        towards = (1 - s.beta) * old + s.beta * new
        away = (1 + s.beta) * old - s.beta * new
        r = per_sample(level, x)
        error = r * (towards - aim).square() + (1 - r) * (away - aim).square()
        return error.mean() + self.anchor * (new - plain).square().mean()

    def _optimality(self, frames: Tensor, prompts: Sequence[str], groups: int) -> tuple[Tensor, dict[str, Tensor]]:
        """``[B]`` in [0, 1]: where each stands in its group, and the scores' means. One that cannot be scored stands in
        the middle, and is counted; if none can, nothing is finite, and the trainer skips the update."""
        total = torch.zeros(len(frames))
        scalars: dict[str, Tensor] = {}
        for goal in self.goals:
            score = scored(goal.reward, frames, prompts).float().cpu()
            total = total + goal.weight / goal.deviation * score
            scalars[f"reward_{goal.reward.name}"] = score.nanmean()
        sound = torch.isfinite(total)
        scalars["unscored"] = (~sound).sum().float()
        if not bool(sound.any()):
            return torch.full_like(total, torch.nan), scalars
        total = torch.where(sound, total, torch.nan).unflatten(0, (groups, -1))
        centred = (total - total.nanmean(dim=1, keepdim=True)).nan_to_num(0.0)
        spread = centred.square().mean().sqrt().clamp_min(1e-6)
        return (0.5 + 0.5 * (centred / spread / self.settings.clip).clamp(-1, 1)).flatten(), scalars

    def begin_as(self) -> None:
        """The old policy is what is trained, as when that has been loaded."""
        for name, old in self.old.items():
            old.load_state_dict(self.factors[name].state_dict())

    @torch.no_grad()
    def _follow(self) -> None:
        """The old policy goes a little of the way to the new one."""
        for name, old in self.old.items():
            for mine, theirs in zip(old.parameters(), self.factors[name].parameters(), strict=True):
                mine.lerp_(theirs, 1 - self.settings.keep)
