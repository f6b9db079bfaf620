"""Teach a small text encoder what a sentence encoder knows.

B batch, S tokens, W words, D the student's width, E the teacher's width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Distillation:
    """The student's states, through linear heads that are thrown away, must match the teacher's embeddings.

    Of a sentence two readings are matched: the mean over tokens, and the last token, which alone of a causal encoder's
    states has seen the whole prompt. A third term matches how alike the sentences of a batch are to each other. Of each
    word the mean over its tokens is matched with the word's own target (``words``): what reads the states token by
    token, as cross-attention does, must find each thing of a prompt where it is named.
    """

    def __init__(self, encoder: nn.Module, width: int, teacher_width: int, words: float = 1.0) -> None:
        self.encoder = encoder
        self.words = words
        self.head = nn.Linear(width, teacher_width)
        self.word_head = nn.Linear(width, teacher_width)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"text_encoder": self.encoder, "head": self.head, "word_head": self.word_head}

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``ids`` and ``mask`` [B, S], ``teacher`` [B, E] of unit length, ``place`` [B, S]: which of its sentence's
        words a token belongs to, or -1, and ``word_targets`` [B, W, E], zero where a sentence has fewer words."""
        mask = batch["mask"].bool()
        states_BSD = self.encoder(batch["ids"], mask)
        teacher = batch["teacher"].float()
        weight = mask.to(states_BSD.dtype)[..., None]
        rows = torch.arange(len(mask), device=mask.device)
        pooled = (states_BSD * weight).sum(dim=1) / weight.sum(dim=1)
        # The head is linear: of the mean of the states it gives the mean of what it would give.
        mean, last = self.head(torch.stack([pooled, states_BSD[rows, mask.sum(dim=1) - 1]])).float().unbind()
        mean, last = F.normalize(mean, dim=-1), F.normalize(last, dim=-1)
        cosine_mean = (mean * teacher).sum(dim=-1).mean()
        cosine_last = (last * teacher).sum(dim=-1).mean()
        relations = F.mse_loss(last @ last.T, teacher @ teacher.T)
        cosine_word = self._words(states_BSD, batch["place"], batch["word_targets"].float())
        loss = (1 - cosine_mean) + (1 - cosine_last) + 5 * relations + self.words * (1 - cosine_word)
        return loss, {
            "cosine_mean": cosine_mean,
            "cosine_last": cosine_last,
            "cosine_word": cosine_word,
            "relations": relations,
        }

    def _words(self, states_BSD: Tensor, place_BS: Tensor, targets_BWE: Tensor) -> Tensor:
        """The mean cosine over the words that have a target and at least one token."""
        member_BWS = (place_BS[:, None] == torch.arange(targets_BWE.shape[1], device=place_BS.device)[:, None]).float()
        tokens_BW = member_BWS.sum(dim=-1)
        states_BWD = member_BWS.to(states_BSD.dtype) @ states_BSD / tokens_BW.clamp(min=1)[..., None]
        cosine_BW = F.cosine_similarity(self.word_head(states_BWD).float(), targets_BWE, dim=-1)
        counted_BW = (tokens_BW > 0) & (targets_BWE.abs().amax(dim=-1) > 0)
        return (cosine_BW * counted_BW).sum() / counted_BW.sum().clamp(min=1)

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None
