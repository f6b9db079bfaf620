"""Two towers that end in one space, where a picture is near the texts that are true of it (Radford et al. 2021, arXiv
2103.00020), small enough to be trained in minutes.

The text tower is a head on the states of a text encoder that stays as it is. Nothing here looks at other pictures of
the batch (no batch norm), so a picture's embedding is its own.

B batch, N pictures, P side of a picture, C/h/w channels and sides of a map, F features of a picture, S tokens,
E width of a token's state, D embedding, G heads.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.dual.config import DualConfig

_GROUPS = 8
_MOST_SCALE = math.log(100.0)


class Block(nn.Module):
    """``x + mix(silu(conv(norm(x))))``: ``[N, C, h, w]`` to the same; a ``kernel`` of 1 looks at no neighbours."""

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.conv = nn.Conv2d(width, hidden, kernel, padding=kernel // 2)
        self.mix = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mix(F.silu(self.conv(self.norm(x))))
        return out


class ImageTower(nn.Module):
    """Pictures ``[N, 3, P, P]`` in [0, 1]."""

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        widths = config.widths
        self.stem = nn.Conv2d(3, widths[0], 4, stride=2, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.blocks = nn.ModuleList(
            [Block(widths[1], widths[1], 3), Block(widths[2], widths[2], 3), Block(widths[3], widths[3] * 3 // 2, 1)]
        )
        # Means over a picture forget where things are; with this the last maps can say it.
        self.place = nn.Parameter(torch.zeros(widths[2], config.side // 8, config.side // 8))
        self.norm = nn.LayerNorm(2 * sum(widths[2:]))
        self.out = nn.Linear(2 * sum(widths[2:]), config.embedding)
        self._last = sum(widths[2:])

    def maps(self, x_N3PP: Tensor) -> list[Tensor]:
        """The pixels in [-1, 1] and each stage's map, ``[N, C, h, w]``."""
        maps = [x_N3PP * 2 - 1]
        x = F.silu(self.stem(maps[0]))
        maps.append(x)
        for number, (down, block) in enumerate(zip(self.down, self.blocks, strict=True)):
            x = down(x)
            if number == 1:
                x = x + self.place
            x = block(x)
            maps.append(x)
        return maps

    def features(self, x_N3PP: Tensor) -> Tensor:
        """``[N, F]``: means, then deviations, of every channel of the pixels and of each stage."""
        maps = [each.float().flatten(2) for each in self.maps(x_N3PP)]
        means = [each.mean(dim=2) for each in maps]
        # A plain picture has no slope of its own: without the small number the root's would be infinite.
        deviations = [(each.var(dim=2, correction=0) + 1e-6).sqrt() for each in maps]
        return torch.cat(means + deviations, dim=1)

    def embed(self, features_NF: Tensor) -> Tensor:
        """``[N, D]`` of length 1, from the last two stages' ``features``."""
        means, deviations = features_NF.chunk(2, dim=1)
        last = torch.cat([means[:, -self._last :], deviations[:, -self._last :]], dim=1)
        return F.normalize(self.out(self.norm(last)).float(), dim=-1)

    def forward(self, x_N3PP: Tensor) -> Tensor:
        return self.embed(self.features(x_N3PP))


class TextTower(nn.Module):
    """States ``[B, S, E]`` and their mask ``[B, S]`` to ``[B, D]`` of length 1."""

    def __init__(self, width: int, heads: int, embedding: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.look = nn.Linear(width, heads)
        self.value = nn.Linear(width, embedding)
        self.hidden = nn.Linear(embedding, embedding)
        self.out = nn.Linear(embedding, embedding)

    def forward(self, states_BSE: Tensor, mask_BS: Tensor) -> Tensor:
        return self.pooled(self.norm(states_BSE), mask_BS)

    def pooled(self, x: Tensor, mask_BS: Tensor) -> Tensor:
        """What the heads take from normed states ``[B, S, E]``."""
        look_BSG = self.look(x).float().masked_fill(~mask_BS[..., None], -math.inf).softmax(dim=1)
        value = self.value(x).unflatten(-1, (self.heads, -1))
        pooled = torch.einsum("bsg,bsgd->bgd", look_BSG.to(value.dtype), value).flatten(1)
        return F.normalize(self.out(pooled + F.silu(self.hidden(pooled))).float(), dim=-1)


class DualEncoder(nn.Module):
    """Both towers. ``scale``, the logarithm of what cosines are multiplied by, matters to training only."""

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        self.config = config
        self.image = ImageTower(config)
        self.text = TextTower(config.text_width, config.text_heads, config.embedding)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def logits(self, pictures_BD: Tensor, texts_BD: Tensor) -> Tensor:
        """``[B, B]``: of each picture (rows) with each text, from their embeddings."""
        return self.scale.clamp(max=_MOST_SCALE).exp() * pictures_BD @ texts_BD.T

    def forward(self, x_N3PP: Tensor, states_NSE: Tensor, mask_NS: Tensor) -> Tensor:
        """``[N]``: the cosine of each picture with its own text."""
        return (self.image(x_N3PP) * self.text(states_NSE, mask_NS)).sum(dim=-1)
