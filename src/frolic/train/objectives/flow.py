"""Flow matching: predict the straight line from data to noise.

B batch, C latent channels, h/w latent height and width, S text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.config import Section


class FlowSettings(Section):
    """Times are logit-normal (``mean``, ``deviation``), then warped by ``shift`` as sampling warps its schedule, so
    that training spends its samples where sampling spends its steps (Esser et al. 2024, section 3.1; SANA trains
    shifted too). ``dropout`` is the share of captions replaced by the null prompt, for classifier-free guidance."""

    mean: float = 0.0
    deviation: float = 1.0
    shift: float = 3.0
    dropout: float = 0.1


class Flow:
    """Mean squared error of the velocity ``noise - data`` at a random time of each sample."""

    def __init__(
        self,
        transformer: nn.Module,
        settings: FlowSettings,
        null_text: Tensor,
        null_mask: Tensor,
        draw: Callable[[nn.Module], Tensor] | None = None,
    ) -> None:
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
        u = torch.sigmoid(torch.randn(count, generator=generator) * s.deviation + s.mean)
        return s.shift * u / (1 + (s.shift - 1) * u)

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``latents`` [B, C, h, w] of about unit deviation, ``text`` [B, S, E], ``mask`` [B, S]."""
        x0 = batch["latents"].float()
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        sigma = self.times(len(x0), generator).to(x0)
        drop = (torch.rand(len(x0), generator=generator) < self.settings.dropout).to(x0.device)
        text = torch.where(drop[:, None, None], self.null_text.to(batch["text"]), batch["text"])
        mask = torch.where(drop[:, None], self.null_mask.to(batch["mask"]), batch["mask"])
        level = sigma[:, None, None, None]
        velocity = self.transformer((1 - level) * x0 + level * noise, 1000 * sigma, text, mask)
        error = F.mse_loss(velocity.float(), noise - x0, reduction="none").mean(dim=(1, 2, 3))
        high = sigma > 0.7
        return error.mean(), {
            "high_noise": (error * high).sum() / high.sum().clamp_min(1),
            "low_noise": (error * ~high).sum() / (~high).sum().clamp_min(1),
        }

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None if self.draw is None else self.draw(modules["transformer"])
