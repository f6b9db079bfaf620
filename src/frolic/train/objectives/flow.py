"""Flow matching: predict the straight line from data to noise.

B batch, C latent channels, h/w latent height and width, S text tokens, E text width, T tokens of all texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.config import Section
from frolic.sampling.prediction import per_sample
from frolic.train.objectives.agreement import Agreement, OpinionSettings

Level = Annotated[float, Field(ge=0, le=1)]


class FlowAgreementSettings(OpinionSettings):
    """The encoder sees the clean pictures that the model foresees where the noise level is above ``least``: with less
    noise it is the true picture that shows. They are foreseen without guidance, whose single large step from much noise
    leads to what no encoder knows (it finds a third of the captions there, and without guidance as many as in finished
    drawings)."""

    least: Level = 0.4


class FlowSettings(Section):
    """Times are logit-normal (``mean``, ``deviation``), then warped by ``shift`` as sampling warps its schedule, so
    that training spends its samples where sampling spends its steps (Esser et al. 2024, section 3.1; SANA trains
    shifted too). ``dropout`` is the share of captions replaced by the null prompt, for classifier-free guidance.
    ``levels``: the noise levels, 0 to 1, that are trained, which for one of two experts are its own. ``first``: the
    share of clips whose first latent frame is given, at time 0, so that the model can go on from a picture (as Wan2.2's
    TI2V does; arXiv 2503.20314 and ``wan/textimage2video.py``). ``text_noise``: how far at most the states of tokens
    are moved, in units of how far they lie apart. Words that no caption has are read near the ones they mean and not at
    them, and a model that has met nothing but its captions draws anything there. The starter drew them no better by
    it, and places, of which states say little, worse: no recipe has it."""

    mean: float = 0.0
    deviation: float = 1.0
    shift: float = 3.0
    dropout: float = 0.1
    levels: tuple[Level, Level] = (0.0, 1.0)
    first: Level = 0.0
    text_noise: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> FlowSettings:
        if not self.levels[0] < self.levels[1]:
            raise ValueError(f"levels are {list(self.levels)}; give the lower one first")
        return self


class Flow:
    """Mean squared error of the velocity ``noise - data`` at a random time of each sample."""

    def __init__(
        self,
        transformer: nn.Module,
        settings: FlowSettings,
        null_text: Tensor,
        null_mask: Tensor,
        draw: Callable[[nn.Module], Tensor] | None = None,
        agreement: Agreement | None = None,
    ) -> None:
        self.agreement = agreement
        self.transformer = transformer
        self.settings = settings
        self.null_text = null_text
        self.null_mask = null_mask
        self.draw = draw

    def modules(self) -> Mapping[str, nn.Module]:
        return {"transformer": self.transformer}

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        """``[count]`` noise levels in (0, 1)."""
        s = self.settings
        if s.levels == (0.0, 1.0):
            u = torch.sigmoid(torch.randn(count, generator=generator) * s.deviation + s.mean)
        else:
            # The same distribution, cut: even shares of what of the normal one lies between the two levels.
            ends = torch.tensor(s.levels, dtype=torch.float64)
            bounds = torch.special.ndtr((torch.logit(ends / (s.shift - (s.shift - 1) * ends)) - s.mean) / s.deviation)
            place = bounds[0] + (bounds[1] - bounds[0]) * torch.rand(count, generator=generator, dtype=torch.float64)
            u = torch.sigmoid(torch.special.ndtri(place) * s.deviation + s.mean).float()
        return s.shift * u / (1 + (s.shift - 1) * u)

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``latents`` [B, C, h, w], or of clips [B, C, t, h, w], of about unit deviation, ``text`` [B, S, E], ``mask``
        [B, S]."""
        x0 = batch["latents"].float()
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        sigma = self.times(len(x0), generator).to(x0)
        drop = (torch.rand(len(x0), generator=generator) < self.settings.dropout).to(x0.device)
        text = self._moved(batch["text"], batch["mask"], generator)
        text = torch.where(drop[:, None, None], self.null_text.to(text), text)
        mask = torch.where(drop[:, None], self.null_mask.to(batch["mask"]), batch["mask"])
        level = per_sample(sigma, x0)
        x, times = (1 - level) * x0 + level * noise, 1000 * sigma
        given = self._given(x0, generator)
        if given is not None:
            times = times[:, None].repeat(1, x0.shape[2])
            times[:, 0] = torch.where(given, 0.0, times[:, 0])
            x[:, :, 0] = torch.where(per_sample(given, x0[:, :, 0]).bool(), x0[:, :, 0], x[:, :, 0])
        velocity = self.transformer(x, times, text, mask)
        error = F.mse_loss(velocity.float(), noise - x0, reduction="none")
        if given is not None:
            error[:, :, 0] = error[:, :, 0] * per_sample(~given, error[:, :, 0])
        error = error.flatten(1).mean(dim=1)
        high = sigma > 0.7
        scalars = {
            "high_noise": (error * high).sum() / high.sum().clamp_min(1),
            "low_noise": (error * ~high).sum() / (~high).sum().clamp_min(1),
        }
        loss = error.mean()
        if self.agreement is not None:
            settings = self.agreement.settings
            assert isinstance(settings, FlowAgreementSettings)
            asked = ~drop & (sigma > settings.least)
            if given is not None:
                asked &= ~given  # their first frame is true whatever is foreseen
            told, heard = self._told(x - level * velocity.float(), asked, batch, generator)
            loss, scalars = loss + settings.weight * told, {**scalars, **heard}
        return loss, scalars

    def _moved(self, text_BSE: Tensor, mask_BS: Tensor, generator: torch.Generator) -> Tensor:
        """The states, each moved by some of the difference of two others of the batch, which lies where states differ.

        Every token has its own, since what all share could be told by words that mean nothing and be taken off. Half of
        the texts are moved by less than a quarter of ``text_noise``: what is next to the caption is to be drawn as well
        as what is far from it, and the caption itself best."""
        if not self.settings.text_noise:
            return text_BSE
        states_TE = text_BSE[mask_BS.bool()]
        pairs = torch.randint(len(states_TE), (2, text_BSE.shape[0] * text_BSE.shape[1]), generator=generator)
        one, other = states_TE[pairs.to(states_TE.device)].unflatten(1, text_BSE.shape[:2])
        far = self.settings.text_noise * torch.rand(len(text_BSE), generator=generator).square()
        # Two independent states lie apart by twice the variance of one.
        return text_BSE + per_sample(far.to(text_BSE), text_BSE) * (one - other) / math.sqrt(2)

    def _told(
        self, foreseen: Tensor, asked: Tensor, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """How little the pictures or clips [B, C, ...] that are ``asked`` [B] about show their captions: a mean over
        all."""
        assert self.agreement is not None
        some = asked.nonzero()[:, 0]
        if not len(some):
            return foreseen.new_zeros(()), {}
        given = {name: batch[name][some.to(batch[name].device)] for name in ("sentence", "wrong")}
        wrong, right = self.agreement.loss(foreseen[some], given, generator)
        return wrong * (len(some) / len(foreseen)), {"disagreement": wrong.detach(), "agreed": right}

    def _given(self, x0: Tensor, generator: torch.Generator) -> Tensor | None:
        """[B]: whether the first frame of each is; None where none can be."""
        if not self.settings.first or x0.ndim != 5 or x0.shape[2] == 1:
            return None
        return (torch.rand(len(x0), generator=generator) < self.settings.first).to(x0.device)

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None if self.draw is None else self.draw(modules["transformer"])
