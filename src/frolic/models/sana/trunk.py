"""What the SANA transformer and its ControlNet have in common: embeddings, text and blocks.

B batch, C latent channels, H/W latent height and width, L image tokens, S text tokens, D width, E text width.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.context import TextContext
from frolic.models.sana.block import SanaBlock, SanaState
from frolic.models.sana.config import SanaConfig
from frolic.models.sana.positions import GridPositions
from frolic.nn.embed import TimestepEmbedder, patchify
from frolic.nn.norm import RMSNorm
from frolic.nn.visit import visiting
from frolic.types import Perturb


class Caption(nn.Module):
    """Project text features to the model's width and normalise them.  ``[B, S, E] -> [B, S, D]``."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.caption_channels, config.width)
        self.fc2 = nn.Linear(config.width, config.width)
        self.norm = RMSNorm(config.width, eps=1e-5)

    def forward(self, text_BSE: Tensor) -> Tensor:
        return self.norm(self.fc2(F.gelu(self.fc1(text_BSE), approximate="tanh")))


class SanaTrunk(nn.Module):
    """Patches, time, guidance and text, and the blocks that they go to."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        self.patch = nn.Linear(config.in_channels * patch * patch, width)
        self.time = TimestepEmbedder(width)
        self.guidance = TimestepEmbedder(width) if config.guidance_embeds else None
        self.modulation = nn.Linear(width, 6 * width)
        self.caption = Caption(config)
        self.blocks = nn.ModuleList(SanaBlock(config, i) for i in range(config.layers))
        scale = config.interpolation_scale
        self.positions = None if scale is None else GridPositions(width, config.sample_size // patch, scale)

    def context(self, text_BSE: Tensor, mask_BS: Tensor, *, fold: bool = True) -> TextContext:
        """Project the text for every block. ``mask`` is True where a token is real; each row needs at least one.

        ``fold`` spares work at every step that follows where the text is short; for a single step it costs more.
        """
        text_BSD = self.caption(text_BSE)
        kv: list[tuple[Tensor, ...]] = []
        for block in self._blocks():
            with visiting(block):
                k, v = block.cross.project(text_BSD)
                if fold and text_BSD.shape[1] == 1:
                    kv.append((block.cross.only(v),))
                else:
                    kv.append(block.cross.fold(k, v) if fold and block.cross.can_fold(k.shape[2]) else (k, v))
        return TextContext(tuple(kv), mask_BS.bool())

    def embed(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        context: TextContext,
        *,
        guidance_B: Tensor | None = None,
        perturb: Perturb | None = None,
    ) -> SanaState:
        """Latents and conditions to the first block's state.

        ``t`` is the timestep (0 to 1000, or what the model was trained with) before the config's ``timestep_scale``,
        ``guidance`` the guidance scale before its ``guidance_embeds_scale``: given exactly if the model embeds it.
        """
        assert (guidance_B is not None) == (self.guidance is not None), "only Sprint models embed guidance, and always"
        time = self.time(t_B * self.config.timestep_scale)
        if self.guidance is not None and guidance_B is not None:
            time = time + self.guidance(guidance_B * self.config.guidance_embeds_scale)
        modulation = rearrange(self.modulation(F.silu(time)), "b (six d) -> b six d", six=6)
        return SanaState(self.tokens(x_BCHW), modulation, time, context, self.grid(x_BCHW), perturb)

    def grid(self, x_BCHW: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return x_BCHW.shape[-2] // self.config.patch_size, x_BCHW.shape[-1] // self.config.patch_size

    def tokens(self, x_BCHW: Tensor) -> Tensor:
        """Latents to tokens ``[B, L, D]``, at their positions if the model has positions."""
        x_BLD = self.patch(patchify(x_BCHW, self.config.patch_size))
        return x_BLD if self.positions is None else x_BLD + self.positions(self.grid(x_BCHW), x_BLD)

    def _blocks(self) -> list[SanaBlock]:
        blocks = list(self.blocks)
        assert all(isinstance(block, SanaBlock) for block in blocks)
        return blocks  # type: ignore[return-value]
