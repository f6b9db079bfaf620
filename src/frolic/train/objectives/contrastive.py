"""Bring pictures and their captions together, and apart from the others of the batch.

B batch, D embedding, P side of a picture, S tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.dual import DualEncoder

Show = Callable[[nn.Module], Tensor]


class Contrastive:
    """The symmetric loss of CLIP (Radford et al. 2021, figure 3), but a pair of the same ``meaning`` elsewhere in the
    batch is no counterexample.

    ``read`` gives the states [B, S, E] of ids and mask [B, S]. ``noise`` is the largest deviation of what is added to
    the pixels, and ``blur`` the share of pictures that are seen at half the resolution: pictures that a model draws are
    not as clean as renders, and a reward's slope should not live in the finest detail.
    """

    def __init__(
        self, encoder: DualEncoder, read: Callable[[Tensor, Tensor], Tensor], noise: float = 0.0, blur: float = 0.0
    ) -> None:
        self.encoder, self.read, self.noise, self.blur = encoder, read, noise, blur

    def modules(self) -> Mapping[str, nn.Module]:
        return {"dual": self.encoder}

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``batch``: as ``frolic.data.captioned.CaptionedPictures`` gives it."""
        x = self._seen(batch["pixels"], generator)
        with torch.no_grad():
            states = self.read(batch["ids"], batch["mask"])
        pictures, texts = self.encoder.image(x), self.encoder.text(states, batch["mask"])
        logits = self.encoder.logits(pictures.float(), texts.float())
        loss = contrast(logits, batch["meaning"])
        goal = torch.arange(len(x), device=x.device)
        return loss, {"top1": (logits.argmax(dim=1) == goal).float().mean(), "scale": self.encoder.scale.detach()}

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None

    def _seen(self, x: Tensor, generator: torch.Generator) -> Tensor:
        level, soft = torch.rand(2, len(x), 1, 1, 1, generator=generator)
        if self.blur:
            half = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = torch.where((soft < self.blur).to(x.device), half, x)
        if self.noise:
            x = x + (torch.randn(x.shape, generator=generator) * level * self.noise).to(x)
        return x


def contrast(logits_BB: Tensor, meaning_B: Tensor, wrong_BN: Tensor | None = None) -> Tensor:
    """The mean cross-entropy of finding each picture's text among all, and each text's picture. Pairs off the diagonal
    whose meanings are the same do not take part. ``wrong``: logits of the pictures with further texts, among which
    each one's text is to be found too."""
    own = torch.eye(len(meaning_B), dtype=torch.bool, device=logits_BB.device)
    same = (meaning_B[:, None] == meaning_B[None]) & ~own
    logits = logits_BB.masked_fill(same, -math.inf)
    goal = torch.arange(len(meaning_B), device=logits.device)
    every = logits if wrong_BN is None else torch.cat([logits, wrong_BN], dim=1)
    return (F.cross_entropy(every, goal) + F.cross_entropy(logits.T, goal)) / 2
