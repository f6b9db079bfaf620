"""Flow matching with a ControlNet: the transformer stays as it is, and what leads it is trained.

B batch, C latent channels, h/w latent height and width, S text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from frolic.config import Section
from frolic.models.sana.controlnet import Injection, SanaControlNet
from frolic.models.sana.model import SanaTransformer
from frolic.train.objectives.base import Batch
from frolic.train.objectives.flow import Flow, FlowSettings

_AT_ONCE = 16


class ControlSettings(FlowSettings):
    """``layers``: how many of the transformer's blocks are copied. ``injection``: how the ControlNet joins it, as
    diffusers or as SANA's authors do; who draws must use the same. Its scale needs no training: at zero nothing is
    added, and what is left is the transformer itself."""

    layers: Annotated[int, Field(ge=1)] = 7
    injection: Injection = "diffusers"


class Led(nn.Module):
    """A transformer that one batch's ``control`` latents [B, C, h, w] lead, called as the transformer is. At ``scale``
    0 it is the transformer alone."""

    def __init__(
        self, base: SanaTransformer, net: SanaControlNet, control: Tensor, scale: float, injection: Injection
    ) -> None:
        super().__init__()
        self.base, self.net = base, net
        self.latents, self.scale, self.injection = control, scale, injection

    def forward(self, x_BChw: Tensor, t_B: Tensor, text_BSE: Tensor, mask_BS: Tensor) -> Tensor:
        if not self.scale:
            return self.base(x_BChw, t_B, text_BSE, mask_BS)
        own = self.net.context(text_BSE, mask_BS, fold=False)
        control = self.net.control(self.latents, own, scale=self.scale, injection=self.injection)
        return self.base(x_BChw, t_B, text_BSE, mask_BS, control=control)


class Control:
    """The flow loss of the led transformer. What is trained are the ControlNet's blocks and projections; its copies of
    the embeddings, of time and of the caption stay the transformer's, as the authors share them."""

    def __init__(
        self,
        base: nn.Module,
        net: nn.Module,
        settings: ControlSettings,
        null_text: Tensor,
        null_mask: Tensor,
        draw: Callable[[nn.Module], Tensor] | None = None,
    ) -> None:
        assert isinstance(base, SanaTransformer) and isinstance(net, SanaControlNet)
        self.base, self.net = base.requires_grad_(False).eval(), net
        net.requires_grad_(False)
        for part in (net.blocks, net.input_block, net.controlnet_blocks):
            part.requires_grad_(True)
        self.settings = settings
        self.null = null_text, null_mask
        self.draw = draw

    def modules(self) -> Mapping[str, nn.Module]:
        return {"controlnet": self.net}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``latents`` and ``control`` [B, C, h, w] of about unit deviation, ``text`` [B, S, E], ``mask`` [B, S]."""
        return self._flow(self.net, batch, 1.0, self.settings).loss(batch, generator)

    def held_out(self, net: nn.Module, batch: Batch) -> dict[str, float]:
        """The mean loss over ``batch`` with ``net`` leading, and with nothing leading: the same noise and noise levels
        for both and at every call, and no caption dropped."""
        assert isinstance(net, SanaControlNet)
        settings: Section = self.settings.model_copy(update={"dropout": 0.0})
        assert isinstance(settings, ControlSettings)
        size = len(batch["latents"])
        found = {}
        for name, scale in (("loss_with_control", 1.0), ("loss_without_control", 0.0)):
            generator = torch.Generator().manual_seed(0)
            total = 0.0
            for first in range(0, size, _AT_ONCE):
                part = {key: tensor[first : first + _AT_ONCE] for key, tensor in batch.items()}
                loss, _ = self._flow(net, part, scale, settings).loss(part, generator)
                total += float(loss) * len(part["latents"])
            found[name] = total / size
        return found

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None if self.draw is None else self.draw(modules["controlnet"])

    def _flow(self, net: nn.Module, batch: Batch, scale: float, settings: ControlSettings) -> Flow:
        assert isinstance(net, SanaControlNet)
        led = Led(self.base, net, batch["control"], scale, settings.injection)
        return Flow(led, settings, *self.null)
