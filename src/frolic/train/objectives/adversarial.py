"""Latent adversarial distillation (LADD, arXiv 2403.12015), beside the consistency of ``consistency.py``, as
SANA-Sprint trains (arXiv 2503.09641, section 3.3).

What tells a student's pictures from true ones are small heads on what the frozen teacher makes of them, noised again.

B batch, L image tokens, D width, H head width, h/w latent height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.config import Fraction, Positive, Section
from frolic.models.sana.model import SanaTransformer
from frolic.sampling.prediction import add_noise, trig_level
from frolic.sampling.schedules import TRAIN_STEPS
from frolic.train.objectives.agreement import Agreement, AgreementSettings
from frolic.train.objectives.base import Batch
from frolic.train.objectives.consistency import Consistency, ConsistencySettings, drawn_times, full, state_at

_SLOPE = 0.2
_SECOND = 0.9, 1.5
"""Times at which a second step may begin; of two steps it is 1.3."""


class AdversarialSettings(Section):
    """``weight`` of what the student is told by the heads, which have ``width`` channels and read the teacher after
    the ``blocks``. A share (``noisiest``) of the student's pictures begins in pure noise. What the heads see is noised
    again at times of ``mean`` and ``deviation``. ``misaligned``: they also learn that a true picture with another's
    caption is wrong. ``r1``: how much they are kept from being steep at true pictures (Mescheder et al. 2018, arXiv
    1801.04406), by what they read."""

    blocks: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    weight: Annotated[float, Field(ge=0)] = 0.5
    width: Positive = 64
    noisiest: Fraction = 0.5
    mean: float = -0.6
    deviation: Annotated[float, Field(gt=0)] = 1.0
    misaligned: bool = True
    r1: Annotated[float, Field(ge=0)] = 0.0


class Head(nn.Module):
    """What one block made of a picture to how true every token looks.  ``[B, L, D] -> [B, L]``."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.width = width
        self.narrow = nn.Linear(width, inner)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1)
        self.out = nn.Linear(inner, 1)

    def forward(self, x_BLD: Tensor, grid: tuple[int, int], learn: bool) -> Tensor:
        """``learn``: whether gradients reach the head itself; they reach ``x`` in any case."""

        def of(layer: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
            assert layer.bias is not None
            return (layer.weight, layer.bias) if learn else (layer.weight.detach(), layer.bias.detach())

        h = F.leaky_relu(F.linear(F.layer_norm(x_BLD, (self.width,)), *of(self.narrow)), _SLOPE)
        h_BHhw = h.transpose(1, 2).unflatten(2, grid)
        mixed = F.leaky_relu(F.conv2d(h_BHhw, *of(self.mix), padding=1), _SLOPE)
        return F.linear((h_BHhw + mixed).flatten(2).transpose(1, 2) / math.sqrt(2), *of(self.out))[..., 0]


class Heads(nn.Module):
    """One head for each of the teacher's blocks that is read."""

    def __init__(self, blocks: Sequence[int], width: int, inner: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(width, inner) for _ in blocks)

    def forward(self, features: Sequence[Tensor], grid: tuple[int, int], learn: bool) -> Tensor:
        """All heads' answers, [B, L times heads], positive for true."""
        answers = [head(x, grid, learn) for head, x in zip(self.heads, features, strict=True)]
        return full(torch.cat(answers, dim=1))


def judged(true: Tensor, false: Tensor) -> Tensor:
    """The heads' hinge loss: answers should be above 1 for what is true, and below -1 for what is not."""
    return 0.5 * (F.relu(1 - true).mean() + F.relu(1 + false).mean())


class Adversarial(Consistency):
    """Consistency and the heads' opinion, in turn with the heads' own lesson: the student learns in the even steps, the
    heads in the odd ones."""

    def __init__(
        self,
        student: nn.Module,
        teacher: SanaTransformer,
        settings: ConsistencySettings,
        adversarial: AdversarialSettings,
        null_text: Tensor,
        null_mask: Tensor,
        draw: Callable[[nn.Module], Tensor] | None = None,
        agreement: Agreement | None = None,
    ) -> None:
        super().__init__(student, teacher, settings, null_text, null_mask, draw)
        self.agreement = agreement
        self.reader = teacher
        self.adversarial = adversarial
        assert max(adversarial.blocks) < teacher.config.layers and len({*adversarial.blocks}) == len(adversarial.blocks)
        self.heads = Heads(adversarial.blocks, teacher.config.width, adversarial.width)

    def modules(self) -> Mapping[str, nn.Module]:
        return {**super().modules(), "heads": self.heads}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if int(batch["step"][0]) % 2:
            return self.lesson(batch, generator)
        loss, scalars = super().loss(batch, generator)
        x = self.drawn(batch, generator)
        if self.agreement is not None:
            told = self.agreement.settings
            assert isinstance(told, AgreementSettings)
            if float(torch.rand((), generator=generator)) < told.second:
                x = self.second(x, batch, generator)
            wrong, right = self.agreement.loss(x, batch, generator)
            loss = loss + told.weight * wrong
            scalars = {**scalars, "disagreement": wrong.detach(), "agreed": right}
        opinion = -self.opinion(x, batch, generator, learn=False).mean()
        return loss + self.adversarial.weight * opinion, {**scalars, "opinion": opinion.detach()}

    def second(self, x0: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        """What the student makes of its own pictures [B, C, h, w] when they are noised again, as it is asked to in the
        second of two steps. Its slope is that of this step alone."""
        first, last = _SECOND
        time = (torch.rand(len(x0), generator=generator) * (last - first) + first).to(x0)
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        scale = self.scales(len(x0), generator).to(x0)
        return self.finished(state_at(x0.detach(), noise, time), time, batch["text"], batch["mask"], scale)

    def lesson(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """What the heads learn of a batch as ``loss`` takes it."""
        x0 = full(batch["latents"])
        with torch.no_grad():
            fake = self.drawn(batch, generator)
        said_fake = self.opinion(fake, batch, generator, learn=True)
        features, grid = self.features(x0, batch, generator)
        if self.adversarial.r1:
            features = [x.detach().requires_grad_() for x in features]
        said_true = self.heads(features, grid, learn=True)
        false = [said_fake]
        if self.adversarial.misaligned and len(x0) > 1:
            false.append(self.opinion(x0.roll(1, 0), batch, generator, learn=True))
        loss = judged(said_true, torch.cat(false))
        scalars = {
            "judged": loss.detach(),
            "true_seen": (said_true > 0).float().mean(),
            "false_seen": (said_fake < 0).float().mean(),
        }
        if self.adversarial.r1:
            slopes = torch.autograd.grad(said_true.sum(), features, create_graph=True)
            steep = sum(slope.square().flatten(1).sum(dim=1) for slope in slopes)
            assert isinstance(steep, Tensor)
            loss = loss + 0.5 * self.adversarial.r1 * steep.mean()
            scalars["steep"] = steep.detach().mean()
        return loss, scalars

    def drawn(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The student's pictures [B, C, h, w] of noised true ones, or of noise alone."""
        x0 = full(batch["latents"])
        time = self.starts(len(x0), self.adversarial.noisiest, generator).to(x0)
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        scale = self.scales(len(x0), generator).to(x0)
        return self.finished(state_at(x0, noise, time), time, batch["text"], batch["mask"], scale)

    def opinion(self, x0: Tensor, batch: Batch, generator: torch.Generator, *, learn: bool) -> Tensor:
        """How true pictures [B, C, h, w] look with the batch's captions: [B, answers]."""
        features, grid = self.features(x0, batch, generator)
        answers: Tensor = self.heads(features, grid, learn)
        return answers

    def features(self, x0: Tensor, batch: Batch, generator: torch.Generator) -> tuple[list[Tensor], tuple[int, int]]:
        """What the teacher's blocks [B, L, D] make of pictures that are noised anew, and the grid of tokens."""
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        time = drawn_times(len(x0), self.adversarial.mean, self.adversarial.deviation, generator)
        level = trig_level(time).to(x0)
        context = self.reader.context(batch["text"], batch["mask"], fold=False)
        state = self.reader.embed(add_noise(x0, noise, level), TRAIN_STEPS * level, context)
        found = {}
        for number, block in enumerate(self.reader.blocks[: max(self.adversarial.blocks) + 1]):
            state = block(state)
            found[number] = state.x
        return [found[number] for number in self.adversarial.blocks], state.grid
