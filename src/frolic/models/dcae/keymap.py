"""Other people's names for the autoencoder's tensors: diffusers' and the authors' own."""

from __future__ import annotations

from frolic.keymap import POINTWISE, KeyMap, Rule
from frolic.models.dcae.config import DCAEConfig


def _both(theirs: str, ours: str) -> list[Rule]:
    return [Rule.of(f"{theirs}.{kind}", f"{ours}.{kind}") for kind in ("weight", "bias")]


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


def original_keys(config: DCAEConfig) -> KeyMap:
    """The authors' names: what lies on a skip connection is ``main`` there, and what runs in order an ``op_list``."""
    rules: list[Rule] = []
    for side, resample in (("encoder", config.down), ("decoder", config.up)):
        theirs, ours = f"{side}.stages.{{i}}.op_list.{{j}}", f"{side}.stages.{{i}}.{{j}}"
        # A strided convolution is a layer of its own there; the other kinds wrap one.
        plain = resample in ("conv", "Conv")
        context, local = f"{theirs}.context_module.main", f"{theirs}.local_module.main"
        rules += [
            *_both(f"{theirs}.main.conv" if plain else f"{theirs}.main.conv.conv", f"{ours}.conv"),
            *_both(f"{theirs}.main.conv1.conv", f"{ours}.conv1"),
            *_both(f"{theirs}.main.conv2.conv", f"{ours}.conv2"),
            *_both(f"{theirs}.main.conv2.norm", f"{ours}.norm"),
            Rule.of(f"{context}.qkv.conv.weight", f"{ours}.attn.qkv.weight", POINTWISE),
            Rule.of(f"{context}.aggreg.{{k}}.0.weight", f"{ours}.attn.scales.{{k}}.depth.weight"),
            Rule.of(f"{context}.aggreg.{{k}}.1.weight", f"{ours}.attn.scales.{{k}}.mix.weight"),
            Rule.of(f"{context}.proj.conv.weight", f"{ours}.attn.out.weight", POINTWISE),
            *_both(f"{context}.proj.norm", f"{ours}.attn.norm"),
            *_both(f"{local}.inverted_conv.conv", f"{ours}.mlp.expand"),
            *_both(f"{local}.depth_conv.conv", f"{ours}.mlp.depth"),
            *_both(f"{local}.point_conv.conv", f"{ours}.mlp.project"),
            *_both(f"{local}.point_conv.norm", f"{ours}.mlp.norm"),
        ]
    return KeyMap([*rules, *_original_ends(config)])


def _original_ends(config: DCAEConfig) -> list[Rule]:
    """The first and the last convolution of each side, which are an ``op_list`` or not as their modules have it."""
    down_in, up_out = not config.encoder[0].layers, not config.decoder[0].layers
    unfold = ".conv" if config.down == "pixel_unshuffle" else ""
    enter = "encoder.project_in" + (unfold if down_in else "")
    leave = "decoder.project_out.op_list.2" + (".conv" if up_out else "")
    encoded = "encoder.project_out" + (".main" if config.encoder_out_shortcut else "")
    decoded = "decoder.project_in" + (".main" if config.decoder_in_shortcut else "")
    return [
        *_both(f"{enter}.conv", "encoder.conv_in" + (".conv" if down_in else "")),
        *_both(f"{encoded}.op_list.0.conv", "encoder.conv_out"),
        *_both(f"{decoded}.conv", "decoder.conv_in"),
        *_both("decoder.project_out.op_list.0", "decoder.norm_out"),
        *_both(f"{leave}.conv", "decoder.conv_out" + (".conv" if up_out else "")),
    ]
