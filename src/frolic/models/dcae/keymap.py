"""diffusers' names for the autoencoder's tensors."""

from __future__ import annotations

from frolic.keymap import KeyMap, Rule
from frolic.models.dcae.config import DCAEConfig


def diffusers_keys(config: DCAEConfig) -> KeyMap:
    """Only the attention differs by more than its name: q, k and v are one linear here."""
    rules = []
    for theirs, ours in (("encoder.down_blocks", "encoder.stages"), ("decoder.up_blocks", "decoder.stages")):
        block = "{i}.{j}"
        rules += [
            Rule.of(
                [f"{theirs}.{block}.attn.to_{n}.weight" for n in "qkv"],
                f"{ours}.{block}.attn.qkv.weight",
            ),
            Rule.of(
                f"{theirs}.{block}.attn.to_qkv_multiscale.{{k}}.proj_in.weight",
                f"{ours}.{block}.attn.scales.{{k}}.depth.weight",
            ),
            Rule.of(
                f"{theirs}.{block}.attn.to_qkv_multiscale.{{k}}.proj_out.weight",
                f"{ours}.{block}.attn.scales.{{k}}.mix.weight",
            ),
            Rule.of(f"{theirs}.{block}.attn.to_out.weight", f"{ours}.{block}.attn.out.weight"),
        ]
        for kind in ("weight", "bias"):
            rules += [
                Rule.of(f"{theirs}.{block}.attn.norm_out.{kind}", f"{ours}.{block}.attn.norm.{kind}"),
                *[
                    Rule.of(f"{theirs}.{block}.conv_out.{part}.{kind}", f"{ours}.{block}.mlp.{name}.{kind}")
                    for part, name in (
                        ("conv_inverted", "expand"),
                        ("conv_depth", "depth"),
                        ("conv_point", "project"),
                        ("norm", "norm"),
                    )
                ],
                Rule.of(f"{theirs}.{block}.{{layer}}.{kind}", f"{ours}.{block}.{{layer}}.{kind}"),
            ]
    return KeyMap(rules)
