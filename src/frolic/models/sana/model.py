"""The SANA transformer as ``embed -> blocks -> head``.

B batch, C latent channels, H/W latent height and width, S text tokens, E text width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frolic.models.context import TextContext
from frolic.models.sana.block import SanaState
from frolic.models.sana.config import SanaConfig
from frolic.models.sana.controlnet import SanaControl
from frolic.models.sana.trunk import SanaTrunk
from frolic.nn.embed import unpatchify
from frolic.nn.norm import modulated_layer_norm
from frolic.types import Perturb, Through


class SanaTransformer(SanaTrunk):
    """Predicts the flow's velocity ``noise - data`` of noised latents, given a timestep and text."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__(config)
        self.table = nn.Parameter(torch.randn(2, config.width) / config.width**0.5)
        self.out = nn.Linear(config.width, config.patch_size**2 * config.out_channels)

    def head(self, state: SanaState) -> Tensor:
        """The last state to a velocity ``[B, C, H, W]``."""
        shift, scale = (self.table + state.time[:, None]).chunk(2, dim=1)
        x = self.out(modulated_layer_norm(state.x, shift, scale, 1e-6))
        return unpatchify(x, state.grid, self.config.patch_size)

    def denoise(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        context: TextContext,
        *,
        guidance_B: Tensor | None = None,
        perturb: Perturb | None = None,
        control: SanaControl | None = None,
        through: Through | None = None,
    ) -> Tensor:
        """Velocity for one step of a request whose text was prepared by ``context``.

        ``guidance`` is the guidance scale that a Sprint model embeds. ``control`` has a row for each of the batch.
        ``through`` applies the blocks in another way than one after the other; not with ``control``.
        """
        state = self.embed(x_BCHW, t_B, context, guidance_B=guidance_B, perturb=perturb)
        if through is not None:
            assert control is None, "what a ControlNet adds between blocks cannot be taken over"
            return self.head(through(list(self.blocks), state))
        branch = None if control is None else control.begin(x_BCHW, t_B * self.config.timestep_scale)
        for index, block in enumerate(self.blocks):
            state = block(state)
            if branch is not None:
                state = branch.after(index, state)
        return self.head(state)

    def forward(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        text_BSE: Tensor,
        mask_BS: Tensor,
        *,
        guidance_B: Tensor | None = None,
        perturb: Perturb | None = None,
        control: SanaControl | None = None,
    ) -> Tensor:
        """``context`` and ``denoise`` in one: what training calls."""
        context = self.context(text_BSE, mask_BS, fold=False)
        return self.denoise(x_BCHW, t_B, context, guidance_B=guidance_B, perturb=perturb, control=control)
