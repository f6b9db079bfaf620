"""Teach a small text encoder what a sentence encoder knows.

B batch, S tokens, D the student's width, E the teacher's width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Distillation:
    """The student's states, through a linear head that is thrown away, must match the teacher's sentence embedding.

    Two readings are matched: the mean over tokens, and the last token, which alone of a causal encoder's states has
    seen the whole prompt. A third term matches how alike the sentences of a batch are to each other.
    """

    def __init__(self, encoder: nn.Module, width: int, teacher_width: int) -> None:
        self.encoder = encoder
        self.head = nn.Linear(width, teacher_width)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"text_encoder": self.encoder, "head": self.head}

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``ids`` and ``mask`` [B, S], ``teacher`` [B, E] of unit length."""
        mask = batch["mask"].bool()
        states_BSE = self.head(self.encoder(batch["ids"], mask)).float()
        teacher = batch["teacher"].float()
        weight = mask.float()[..., None]
        mean = F.normalize((states_BSE * weight).sum(dim=1) / weight.sum(dim=1), dim=-1)
        rows = torch.arange(len(mask), device=mask.device)
        last = F.normalize(states_BSE[rows, mask.sum(dim=1) - 1], dim=-1)
        cosine_mean = (mean * teacher).sum(dim=-1).mean()
        cosine_last = (last * teacher).sum(dim=-1).mean()
        relations = F.mse_loss(last @ last.T, teacher @ teacher.T)
        loss = (1 - cosine_mean) + (1 - cosine_last) + 5 * relations
        return loss, {"cosine_mean": cosine_mean, "cosine_last": cosine_last, "relations": relations}

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None
