"""The config of a transformer or a ControlNet in the authors' naming, from the names and shapes of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from frolic.errors import CheckpointError
from frolic.models.layouts import Guess, Shapes, required, shape_of
from frolic.models.sana.config import SanaConfig, SanaControlNetConfig

HEAD_DIM = 32
"""Channels of one head of linear attention, in every published transformer."""

CROSS_HEADS: Mapping[int, int] = MappingProxyType({1152: 16, 2240: 20})
"""Heads of cross attention by width: nothing else in a file tells them."""

POSITIONS: Mapping[int, float] = MappingProxyType({64: 1.0, 128: 2.0})
"""``interpolation_scale`` of the published transformers that add positions, by the side of their latents. The others
carry a table of positions as well, and do not use it."""


def guess(shapes: Shapes) -> Guess:
    """A transformer's config.

    Raises:
        CheckpointError: a tensor is missing without which there is nothing to go by.
    """
    return _guess(shapes, "blocks", SanaConfig)


def guess_controlnet(shapes: Shapes) -> Guess:
    """A ControlNet's config. Raises as ``guess``."""
    return _guess(shapes, "controlnet", SanaControlNetConfig)


def _guess(shapes: Shapes, blocks: str, kind: type[SanaConfig]) -> Guess:
    first = f"{blocks}.0." + ("copied_block." if blocks == "controlnet" else "")
    width, channels, patch, _ = required(shapes, "x_embedder.proj.weight", 4)
    caption = required(shapes, "y_embedder.y_proj.fc1.weight", 2)[1]
    hidden = required(shapes, f"{first}mlp.point_conv.conv.weight", 4)[1]
    out = (shape_of(shapes, "final_layer.linear.weight", 2) or (channels * patch * patch,))[0]
    numbers = [int(m[1]) for name in shapes if (m := re.match(rf"{blocks}\.(\d{{1,4}})\.", name))]
    size, scale, assumed = _positions(shapes, patch)
    heads, head_dim = (width // HEAD_DIM, HEAD_DIM) if width % HEAD_DIM == 0 else (1, width)
    cross = CROSS_HEADS.get(width, 1)
    unknown = {}
    if width not in CROSS_HEADS:
        # A width that nobody published: its heads of linear attention may be others too.
        unknown = dict.fromkeys(("heads", "head_dim", "cross_heads", "cross_head_dim"), "number of heads")
    config = kind(
        in_channels=channels,
        out_channels=out // (patch * patch),
        heads=heads,
        head_dim=head_dim,
        layers=len(set(numbers)),
        cross_heads=cross,
        cross_head_dim=width // cross,
        caption_channels=caption,
        mlp_ratio=hidden / width,
        attention_bias=f"{first}attn.qkv.bias" in shapes,
        sample_size=size,
        patch_size=patch,
        qk_norm=f"{first}attn.q_norm.weight" in shapes,
        interpolation_scale=scale,
        guidance_embeds="cfg_embedder.mlp.0.weight" in shapes,
    )
    assumed |= {"norm_eps": "", "guidance_embeds_scale": "", "timestep_scale": ""}
    if config.qk_norm and not config.guidance_embeds:
        # Two published models differ in nothing else.
        assumed["timestep_scale"] = (
            "The file does not say how it counts time; 0 to 1000 is assumed, which is wrong for a teacher of Sprint."
        )
    return Guess(config, assumed, unknown)


def _positions(shapes: Shapes, patch: int) -> tuple[int, float | None, dict[str, str]]:
    """Side of the latents it was trained on, scale of the positions it adds (or None), and what of that is assumed."""
    table = shape_of(shapes, "pos_embed", 3)
    if table is None:
        size = SanaConfig().sample_size
        said = f"The file does not say what size it was trained for; {size * 32} pixels without positions are assumed."
        return size, None, {"sample_size": said, "interpolation_scale": said}
    side = math.isqrt(table[1])
    if side * side != table[1]:
        raise CheckpointError(f"The table of positions is {'x'.join(map(str, table))}, which is no square of tokens.")
    scale = POSITIONS.get(side)
    does = "adds none" if scale is None else f"adds them at scale {scale}"
    said = (
        f"Whether the model adds positions is not in the file; at {side} x {side} tokens it is assumed that it {does}."
    )
    return side * patch, scale, {"interpolation_scale": said}
