"""diffusers' names for the transformer's tensors."""

from __future__ import annotations

from frolic.keymap import POINTWISE, Edit, KeyMap, Rule
from frolic.models.sana.config import SanaConfig

_B, _T = "blocks.{i}", "transformer_blocks.{i}"


def _both(theirs: str, ours: str) -> list[Rule]:
    return [Rule.of(f"{theirs}.{kind}", f"{ours}.{kind}") for kind in ("weight", "bias")]


def diffusers_keys(config: SanaConfig) -> KeyMap:
    """The map for a transformer of these dimensions (the patch side is what a flattened weight has lost)."""
    side = config.patch_size
    # A strided convolution over patches is a linear over flattened ones.
    patch = Edit(load=lambda w: w.flatten(1), save=lambda w: w.unflatten(1, (-1, side, side)))
    return KeyMap(
        [
            Rule.of("patch_embed.proj.weight", "patch.weight", patch),
            Rule.of("patch_embed.proj.bias", "patch.bias"),
            *_both("time_embed.emb.timestep_embedder.linear_1", "time.fc1"),
            *_both("time_embed.emb.timestep_embedder.linear_2", "time.fc2"),
            *_both("time_embed.linear", "modulation"),
            *_both("caption_projection.linear_1", "caption.fc1"),
            *_both("caption_projection.linear_2", "caption.fc2"),
            Rule.of("caption_norm.weight", "caption.norm.weight"),
            Rule.of(f"{_T}.scale_shift_table", f"{_B}.table"),
            *[
                Rule.of([f"{_T}.attn1.to_{n}.{kind}" for n in "qkv"], f"{_B}.attn.qkv.{kind}")
                for kind in ("weight", "bias")
            ],
            *_both(f"{_T}.attn1.to_out.0", f"{_B}.attn.out"),
            *_both(f"{_T}.attn2.to_q", f"{_B}.cross.q"),
            *[
                Rule.of([f"{_T}.attn2.to_{n}.{kind}" for n in "kv"], f"{_B}.cross.kv.{kind}")
                for kind in ("weight", "bias")
            ],
            *_both(f"{_T}.attn2.to_out.0", f"{_B}.cross.out"),
            *[
                Rule.of(f"{_T}.{theirs}.norm_{n}.weight", f"{_B}.{ours}.norm_{n}.weight")
                for theirs, ours in (("attn1", "attn"), ("attn2", "cross"))
                for n in "qk"
            ],
            Rule.of(f"{_T}.ff.conv_inverted.weight", f"{_B}.mlp.expand.weight", POINTWISE),
            Rule.of(f"{_T}.ff.conv_inverted.bias", f"{_B}.mlp.expand.bias"),
            *_both(f"{_T}.ff.conv_depth", f"{_B}.mlp.depth"),
            Rule.of(f"{_T}.ff.conv_point.weight", f"{_B}.mlp.project.weight", POINTWISE),
            Rule.of("scale_shift_table", "table"),
            *_both("proj_out", "out"),
        ]
    )
