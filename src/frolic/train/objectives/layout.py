"""Teach a text encoder to say where each thing of a prompt is.

B batch, S tokens, K things, D the encoder's width, H heads, C concepts, U colours.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.nn.norm import RMSNorm


class PlaceReader(nn.Module):
    """What an image model's token does, with nothing but its place: one cross-attention to the text, and then which
    thing is there and in what colour. It is thrown away after training.

    One layer and no more: what it cannot read, the encoder has to make readable.
    """

    def __init__(self, width: int, concepts: int, colours: int, heads: int = 4) -> None:
        super().__init__()
        assert width % heads == 0
        self.heads = heads
        self.query = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
        self.norm = RMSNorm(width, eps=1e-6)
        self.kv = nn.Linear(width, 2 * width)
        self.read = RMSNorm(width, eps=1e-6)
        self.thing = nn.Linear(width, concepts)
        self.colour = nn.Linear(width, colours)

    def forward(self, places_BK2: Tensor, states_BSD: Tensor, mask_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K, C] and [B, K, U] for places in [0, 1] of the width and the height."""
        query = self.query(2 * places_BK2 - 1).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(self.norm(states_BSD)).unflatten(-1, (2, self.heads, -1))
        key, value = kv.permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query, key, value, mask_BS[:, None, None].bool())
        read_BKD = self.read(read.transpose(1, 2).flatten(-2))
        return self.thing(read_BKD), self.colour(read_BKD)


class Layout:
    """Asked at the middle of each thing of a scene, a ``PlaceReader`` of the caption's states must name the thing and
    the colour that is said of it.

    A causal encoder that is taught meaning alone reads "to the left of" and "to the right of" nearly alike, and an
    image model then learns that two things stand in a row, and never in which order. ``anchor`` is the weight of the
    squared distance from the states of the encoder as it was, in their mean square, so that models that were trained
    with it go on reading them.
    """

    def __init__(self, encoder: nn.Module, reader: PlaceReader, anchor: float) -> None:
        self.encoder, self.reader, self.anchor = encoder, reader, anchor
        self.before = copy.deepcopy(encoder).requires_grad_(False)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"text_encoder": self.encoder, "reader": self.reader}

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``ids`` and ``mask`` [B, S]; ``things`` and ``colours`` [B, K], -1 where a scene has fewer things, and their
        ``places`` [B, K, 2]."""
        mask, things = batch["mask"].bool(), batch["things"]
        states = self.encoder(batch["ids"], mask)
        with torch.no_grad():
            before = self.before(batch["ids"], mask).float()
        moved = ((states.float() - before).square().mean(dim=-1) * mask).sum() / mask.sum()
        moved = moved / ((before.square().mean(dim=-1) * mask).sum() / mask.sum())
        thing, colour = (each.float() for each in self.reader(batch["places"], states, mask))
        named = F.cross_entropy(thing.flatten(0, 1), things.flatten(), ignore_index=-1)
        coloured = F.cross_entropy(colour.flatten(0, 1), batch["colours"].flatten(), ignore_index=-1)
        right, order = self._right(thing, things)
        loss = named + 0.5 * coloured + self.anchor * moved
        return loss, {"named": named, "coloured": coloured, "moved": moved, "thing": right, "order": order}

    @staticmethod
    def _right(logits_BKC: Tensor, things_BK: Tensor) -> tuple[Tensor, Tensor]:
        """The share of things that are named among all, and among those of their own scene, where it has others."""
        there = things_BK >= 0
        wanted = things_BK.clamp_min(0)
        right = ((logits_BKC.argmax(dim=-1) == wanted) & there).sum() / there.sum()
        # [B, K, K]: at each place, the logit of each thing of the scene.
        of_scene = logits_BKC.gather(2, wanted[:, None].expand(-1, wanted.shape[1], -1))
        other = (wanted[:, None] != wanted[..., None]) & there[:, None] & there[..., None]
        own = of_scene.diagonal(dim1=1, dim2=2)
        nearest = of_scene.masked_fill(~other, -torch.inf).amax(dim=-1)
        asked = other.any(dim=-1)
        return right, ((own > nearest) & asked).sum() / asked.sum().clamp_min(1)

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        return None
