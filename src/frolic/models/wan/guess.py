"""The config of a Wan transformer in the authors' naming, from the names and shapes of its tensors."""

from __future__ import annotations

import re

from frolic.models.layouts import Guess, Shapes, required
from frolic.models.wan.config import WanConfig

HEAD_DIM = 128
"""Channels of one head, in every published transformer."""


def guess(shapes: Shapes) -> Guess:
    """A transformer's config.

    Raises:
        CheckpointError: a tensor is missing without which there is nothing to go by.
    """
    width, channels, *patch = required(shapes, "patch_embedding.weight", 5)
    out = required(shapes, "head.head.weight", 2)[0]
    numbers = {int(m[1]) for name in shapes if (m := re.match(r"blocks\.(\d{1,4})\.", name))}
    known = width % HEAD_DIM == 0
    config = WanConfig(
        heads=width // HEAD_DIM if known else 1,
        head_dim=HEAD_DIM if known else width,
        in_channels=channels,
        out_channels=max(1, out // (patch[0] * patch[1] * patch[2])),
        text_dim=required(shapes, "text_embedding.0.weight", 2)[1],
        freq_dim=required(shapes, "time_embedding.0.weight", 2)[1],
        hidden=required(shapes, "blocks.0.ffn.0.weight", 2)[0],
        layers=len(numbers),
        cross_norm="blocks.0.norm3.weight" in shapes,
        patch=(patch[0], patch[1], patch[2]),
    )
    # A width that nobody published: its heads may be others too.
    unknown = {} if known else dict.fromkeys(("heads", "head_dim"), "number of heads")
    return Guess(config, {"norm_eps": ""}, unknown)
