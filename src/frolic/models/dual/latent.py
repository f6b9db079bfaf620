"""A dual encoder that sees latents instead of pixels (Becker et al. 2025, arXiv 2503.08455): where a model is trained
in latents, it can be told what its pictures show without decoding one.

B batch, N pictures or clips, C/t/h/w latent channels, frames and sides, W width of a map, G heads, S tokens, E width of
a token's state, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.configs import SIZE, read_config, refuse, whole
from frolic.models.dual.model import TextTower

KIND = "latent-dual-encoder"
_KNOWN = {
    "channels": whole(1, 1024),
    "frames": whole(1, 1024),
    "widths": whole(8, 4096).list(),
    "text_width": SIZE,
    "text_heads": whole(1, 64),
    "heads": whole(1, 64),
    "embedding": whole(1, 4096),
    "tokens": whole(1, 1024),
}
_GROUPS = 8
_MOST_SCALE = math.log(50.0)


@dataclass(frozen=True)
class LatentDualConfig:
    """Latents of ``channels``, in clips of so many latent ``frames``; maps of ``widths`` at their own resolution and at
    half of it, read by ``heads``. Texts of at most ``tokens`` states of ``text_width``, which look at each other with
    ``text_heads``. Both end in ``embedding``."""

    channels: int = 32
    widths: tuple[int, ...] = (96, 192)
    text_width: int = 192
    text_heads: int = 6
    heads: int = 8
    embedding: int = 128
    tokens: int = 24
    frames: int = 1

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> LatentDualConfig:
        """Raises:
        CheckpointError: listing every entry that is unknown or cannot be honoured.
        """
        got = read_config(raw, what="latent dual encoder", known=_KNOWN, fixed={"model_type": (KIND,)})
        config = cls(**{**got, **({"widths": tuple(got["widths"])} if "widths" in got else {})})
        wrong = []
        if len(config.widths) != 2 or any(width % _GROUPS for width in config.widths):
            wrong.append(f"widths are {list(config.widths)}, they must be two multiples of {_GROUPS}")
        if config.text_width % config.text_heads:
            wrong.append(f"text_width is {config.text_width}, it must be a multiple of text_heads, {config.text_heads}")
        if config.embedding % config.heads:
            wrong.append(f"embedding is {config.embedding}, it must be a multiple of heads, {config.heads}")
        refuse("latent dual encoder", wrong)
        return config

    def to_json(self) -> dict[str, Any]:
        return {"model_type": KIND, **asdict(self), "widths": list(self.widths)}


class Block(nn.Module):
    """Two convolutions beside a shortcut: ``[N, W, h, w]`` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(_GROUPS, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(_GROUPS, width), nn.Conv2d(width, width, 3, padding=1)
        nn.init.normal_(self.conv2.weight, std=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.silu(self.norm2(h)))
        return out


class LatentTower(nn.Module):
    """Latents ``[N, C, h, w]``, or of clips ``[N, C, t, h, w]``, of about unit deviation, of any even sides, to
    ``[N, D]`` of length 1. The frames of a clip are looked at one by one before they are put together: what things look
    like, which is most of what there is to learn, is learned from all of them."""

    def __init__(self, config: LatentDualConfig) -> None:
        super().__init__()
        fine, coarse = config.widths
        self.stem = nn.Conv2d(config.channels, fine, 3, padding=1)
        self.fine = nn.Sequential(Block(fine), Block(fine))
        self.frames = config.frames
        if config.frames > 1:
            self.time = nn.Parameter(torch.zeros(config.frames, fine, 1, 1))
            self.join = nn.Conv2d(config.frames * fine, fine, 1)
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.coarse = nn.Sequential(Block(coarse), Block(coarse))
        self.norm = nn.GroupNorm(_GROUPS, coarse)
        self.look = nn.Conv2d(coarse, config.heads, 1)
        # How much each head prefers what is lower, and what is further right.
        self.place = nn.Parameter(torch.zeros(2, config.heads))
        self.out = nn.Linear(coarse * (config.heads + 1), config.embedding)

    def forward(self, x: Tensor) -> Tensor:
        h = self.coarse(self.down(self._fine(x)))
        h = F.silu(self.norm(h))
        down, right = (torch.linspace(-1, 1, side, dtype=h.dtype, device=h.device) for side in h.shape[2:])
        place_Ghw = self.place[0, :, None, None] * down[:, None] + self.place[1, :, None, None] * right
        look_NGL = (self.look(h) + place_Ghw).flatten(2).float().softmax(dim=2).to(h.dtype)
        seen = torch.einsum("ngl,nwl->ngw", look_NGL, h.flatten(2)).flatten(1)
        out = self.out(torch.cat([seen, h.mean(dim=(2, 3))], dim=1))
        return F.normalize(out.to(torch.promote_types(out.dtype, torch.float32)), dim=-1)

    def _fine(self, x: Tensor) -> Tensor:
        """``[N, W, h, w]``."""
        if self.frames == 1:
            out: Tensor = self.fine(self.stem(x))
            return out
        each = self.stem(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), self.frames)) + self.time
        joined: Tensor = self.join(self.fine(each.flatten(0, 1)).unflatten(0, (len(x), self.frames)).flatten(1, 2))
        return joined


class LatentTextTower(TextTower):
    """States ``[B, S, E]`` and their mask ``[B, S]`` to ``[B, D]`` of length 1. Which colour is of which thing, and
    which thing is left of which, is in no single token: here tokens look at each other once more."""

    def __init__(self, config: LatentDualConfig) -> None:
        width = config.text_width
        super().__init__(width, config.heads, config.embedding)
        self.text_heads, self.tokens = config.text_heads, config.tokens
        self.place = nn.Parameter(torch.zeros(config.tokens, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.project = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, states_BSE: Tensor, mask_BS: Tensor) -> Tensor:
        states_BSE, mask_BS = states_BSE[:, : self.tokens], mask_BS[:, : self.tokens]
        x = self.norm(states_BSE) + self.place[: states_BSE.shape[1]]
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.text_heads, -1)).permute(2, 0, 3, 1, 4)
        met = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_BS[:, None, None])
        x = x + self.mix(met.transpose(1, 2).flatten(2))
        x = x + self.project(F.gelu(self.up(self.norm2(x))))
        return self.pooled(x, mask_BS)


class LatentDualEncoder(nn.Module):
    """Both towers, and the logarithm of what cosines are multiplied by."""

    def __init__(self, config: LatentDualConfig) -> None:
        super().__init__()
        self.config = config
        self.image = LatentTower(config)
        self.text = LatentTextTower(config)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def factor(self) -> Tensor:
        """What cosines are multiplied by, to be logits."""
        return self.scale.clamp(max=_MOST_SCALE).exp()

    def forward(self, x_N: Tensor, states_NSE: Tensor, mask_NS: Tensor) -> Tensor:
        """``[N]``: the cosine of each picture's or clip's latents with its own text."""
        return (self.image(x_N) * self.text(states_NSE, mask_NS)).sum(dim=-1)
