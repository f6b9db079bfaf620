"""Bring latents and their captions together, and apart from the others of the batch and from mistaken forms.

B batch, C/h/w latent channels and sides, S tokens, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from frolic.data.cached import TextSet
from frolic.models.dual.latent import LatentDualEncoder
from frolic.sampling.prediction import per_sample
from frolic.train.objectives.contrastive import contrast


class LatentContrastive:
    """The loss of ``contrastive.py``, where each picture's text is also to be told from the ``mistaken`` forms of all
    texts of the batch. ``noise`` is the largest deviation of what is added to the latents: those that a model makes are
    not as clean."""

    def __init__(self, encoder: LatentDualEncoder, mistaken: TextSet, noise: float = 0.0) -> None:
        self.encoder, self.mistaken, self.noise = encoder, mistaken, noise

    def modules(self) -> Mapping[str, nn.Module]:
        return {"dual": self.encoder}

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``batch``: as ``frolic.data.told.ToldApart`` gives it."""
        x = batch["latents"]
        level = self.noise * per_sample(torch.rand(len(x), generator=generator), x)
        x = x + level * torch.randn(x.shape, generator=generator).to(x)
        pictures, texts = self.encoder.image(x), self.encoder.text(batch["text"], batch["mask"])
        states, mask = self.mistaken.rows(batch["wrong"].clamp_min(0).cpu(), self.encoder.config.tokens)
        wrong = self.encoder.text(states.to(batch["text"]), mask.to(x.device))
        factor, has = self.encoder.factor(), batch["wrong"] >= 0
        logits, others = (factor * pictures @ each.T for each in (texts, wrong))
        # A form that is mistaken of another picture's text, which means the same, takes part: it is as wrong.
        loss = contrast(logits, batch["meaning"], others.masked_fill(~has[None], -math.inf))
        goal = torch.arange(len(x), device=x.device)
        told = (logits.diagonal() > others.diagonal())[has].float()
        return loss, {
            "top1": (logits.argmax(dim=1) == goal).float().mean(),
            "mistakes_told": told.mean() if len(told) else torch.ones(()),
            "scale": self.encoder.scale.detach(),
        }

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None
