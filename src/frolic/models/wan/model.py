"""The Wan transformer as ``embed -> blocks -> head`` (arXiv 2503.20314, section 4.2).

B batch, C latent channels, T/H/W frames, height and width of latents, L tokens, S text tokens, E text width, D width.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.context import TextContext
from frolic.models.wan.block import WanBlock, WanState, modulated
from frolic.models.wan.config import TEXT_LENGTH, WanConfig
from frolic.nn.embed import TimestepEmbedder
from frolic.nn.rope import rotation_3d
from frolic.nn.visit import visiting
from frolic.types import Perturb, Through


class Caption(nn.Module):
    """Project text features to the model's width.  ``[B, S, E] -> [B, S, D]``."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.text_dim, config.width)
        self.fc2 = nn.Linear(config.width, config.width)

    def forward(self, text_BSE: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(text_BSE), approximate="tanh"))


class WanTransformer(nn.Module):
    """Predicts the flow's velocity ``noise - data`` of a clip's noised latents, given a timestep and text."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch = nn.Linear(config.in_channels * math.prod(config.patch), width)
        self.time = TimestepEmbedder(width, config.freq_dim)
        self.modulation = nn.Linear(width, 6 * width)
        self.caption = Caption(config)
        self.blocks = nn.ModuleList(WanBlock(config, i) for i in range(config.layers))
        self.table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.out = nn.Linear(width, config.out_channels * math.prod(config.patch))

    def context(self, text_BSE: Tensor, mask_BS: Tensor, *, length: int = TEXT_LENGTH) -> TextContext:
        """Project the text for every block. ``mask`` is True where a token is real.

        The model was trained with texts that zeros make ``length`` tokens long, all of which are read. Zeros have one
        key and one value, however many they are, so one stands for all of them, and the logarithm of their number is
        added to its logit: the same sum, of fewer terms.
        """
        mask_BS = mask_BS.bool()
        real_B = mask_BS.sum(dim=1)
        assert mask_BS.shape[1] <= length
        text_BSD = self.caption(F.pad(text_BSE * mask_BS[..., None], (0, 0, 0, 1)))
        zeros_B1 = (length - real_B).float().log()[:, None]
        added_BS = torch.cat(
            [torch.zeros(mask_BS.shape, device=mask_BS.device).masked_fill(~mask_BS, -math.inf), zeros_B1], 1
        )
        kv = []
        for block in self.blocks:
            assert isinstance(block, WanBlock)
            with visiting(block):
                kv.append(block.cross.project(text_BSD))
        return TextContext(tuple(kv), added_BS)

    def embed(
        self,
        x_BCTHW: Tensor,
        t_BT: Tensor,
        context: TextContext,
        *,
        known_BCTHW: Tensor | None = None,
        perturb: Perturb | None = None,
    ) -> WanState:
        """Latents and conditions to the first block's state.

        ``t``: the timestep (0 to 1000), [B], or [B, T] where frames have their own. ``known``: for a model of a given
        first frame, the channels that say what is known of the clip.
        """
        assert (known_BCTHW is not None) == (self.config.known_channels > 0), "as many channels as the model has"
        if known_BCTHW is not None:
            x_BCTHW = torch.cat([x_BCTHW, known_BCTHW.to(x_BCTHW)], dim=1)
        t_BT = t_BT[:, None] if t_BT.ndim == 1 else t_BT
        time_BTD = self.time(t_BT)
        six_BTX = self.modulation(F.silu(time_BTD))
        side = self.config.patch_size
        grid = (x_BCTHW.shape[2], x_BCTHW.shape[3] // side, x_BCTHW.shape[4] // side)
        tokens = rearrange(x_BCTHW, "b c t (h p) (w q) -> b (t h w) (c p q)", p=side, q=side)
        return WanState(
            x=self.patch(tokens),
            modulation=six_BTX.float().unflatten(-1, (6, -1)),
            time=time_BTD.float(),
            turn=rotation_3d(grid, self.config.head_dim, tokens.device),
            context=context,
            grid=grid,
            perturb=perturb,
        )

    def head(self, state: WanState) -> Tensor:
        """The last state to a velocity ``[B, C, T, H, W]``."""
        shift, scale = (self.table.float() + state.time[:, :, None]).unbind(2)
        x = self.out(modulated(state.x, shift, scale, self.config.norm_eps))
        (t, h, w), side = state.grid, self.config.patch_size
        return rearrange(x, "b (t h w) (p q c) -> b c t (h p) (w q)", t=t, h=h, w=w, p=side, q=side)

    def denoise(
        self,
        x_BCTHW: Tensor,
        t_BT: Tensor,
        context: TextContext,
        *,
        known_BCTHW: Tensor | None = None,
        perturb: Perturb | None = None,
        through: Through | None = None,
    ) -> Tensor:
        """Velocity for one step of a request whose text was prepared by ``context``. Arguments as ``embed``;
        ``through`` applies the blocks in another way than one after the other."""
        state = self.embed(x_BCTHW, t_BT, context, known_BCTHW=known_BCTHW, perturb=perturb)
        if through is not None:
            return self.head(through(list(self.blocks), state))
        for block in self.blocks:
            state = block(state)
        return self.head(state)

    def forward(self, x_BCTHW: Tensor, t_BT: Tensor, text_BSE: Tensor, mask_BS: Tensor, **conditions: Tensor) -> Tensor:
        """``context`` and ``denoise`` in one: what training calls."""
        return self.denoise(x_BCTHW, t_BT, self.context(text_BSE, mask_BS), **conditions)  # type: ignore[arg-type]
