"""What a model is told by a dual encoder of latents: whether its picture shows its caption rather than others.

B batch, C/h/w latent channels and sides, D embedding, K captions, M mistaken captions, N other captions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from frolic.config import Fraction, Positive, Section
from frolic.models.dual.latent import LatentDualEncoder


class OpinionSettings(Section):
    """``weights``: the folder of a latent dual encoder (``kind: latent-contrastive``), whose opinion has ``weight``.
    Each picture's caption is to be found among ``others``, drawn anew for each pass, and its own mistaken form.
    ``noise`` is added to what the encoder sees, so that nothing pays that hangs on the last digit."""

    weights: str
    weight: Annotated[float, Field(ge=0)] = 0.1
    others: Positive = 1536
    noise: Annotated[float, Field(ge=0, le=1)] = 0.2

    @property
    def folder(self) -> Path:
        return Path(self.weights).expanduser()


class AgreementSettings(OpinionSettings):
    """For a share of the passes (``second``) the encoder sees what the student makes of its own picture when that is
    noised again, as in a second step."""

    second: Fraction = 0.3


class Agreement:
    """``captions`` [K, D] and ``mistaken`` [M, D] as the encoder reads them; captions of the same ``meaning`` [K] are
    no counterexamples to each other."""

    def __init__(
        self,
        encoder: LatentDualEncoder,
        settings: OpinionSettings,
        captions_KD: Tensor,
        mistaken_MD: Tensor,
        meaning_K: Tensor,
    ) -> None:
        self.encoder = encoder.requires_grad_(False).eval()
        self.settings = settings
        self.captions, self.mistaken, self.meaning = captions_KD, mistaken_MD, meaning_K

    def loss(self, x_BChw: Tensor, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy of finding the captions of pictures that a model made, and the share it is right
        in. ``batch`` has ``sentence`` and ``wrong`` as ``frolic.data.told.ToldApart`` gives them."""
        others = torch.randint(len(self.captions), (self.settings.others,), generator=generator)
        sentence, wrong = batch["sentence"].to(self.meaning.device), batch["wrong"].to(self.meaning.device)
        noise = torch.randn(x_BChw.shape, generator=generator).to(x_BChw)
        pictures = self.encoder.image(x_BChw + self.settings.noise * noise)
        own = pictures * self.captions[sentence]
        form = (pictures * self.mistaken[wrong.clamp_min(0)]).sum(dim=1).masked_fill(wrong < 0, -math.inf)
        same = self.meaning[sentence][:, None] == self.meaning[others][None]
        rest = (pictures @ self.captions[others].T).masked_fill(same, -math.inf)
        logits = self.encoder.factor() * torch.cat([own.sum(dim=1, keepdim=True), form[:, None], rest], dim=1)
        goal = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        return F.cross_entropy(logits, goal), (logits.argmax(dim=1) == 0).float().mean()
