"""Other people's names for the tensors of the autoencoder: diffusers' and the authors' own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from frolic.keymap import POINTWISE, Edit, KeyMap, Rule
from frolic.models.wan_vae.config import WanVAEConfig

_KINDS = ("weight", "bias")


def _both(theirs: str, ours: str, edit: Edit | None = None) -> list[Rule]:
    return [Rule.of(f"{theirs}.{kind}", f"{ours}.{kind}", edit if kind == "weight" else None) for kind in _KINDS]


def _residual(theirs: str, ours: str, names: tuple[str, str, str, str, str], widens: bool) -> Iterator[Rule]:
    norm1, conv1, norm2, conv2, shortcut = (f"{theirs}.{name}" for name in names)
    yield Rule.of(f"{norm1}.gamma", f"{ours}.norm1.gamma")
    yield from _both(conv1, f"{ours}.conv1")
    yield Rule.of(f"{norm2}.gamma", f"{ours}.norm2.gamma")
    yield from _both(conv2, f"{ours}.conv2")
    if widens:
        yield from _both(shortcut, f"{ours}.conv_shortcut")


_DIFFUSERS = ("norm1", "conv1", "norm2", "conv2", "conv_shortcut")
_ORIGINAL = ("residual.0", "residual.2", "residual.3", "residual.6", "shortcut")


def diffusers_keys(config: WanVAEConfig) -> KeyMap:
    """diffusers' ``AutoencoderKLWan``, of these dimensions."""
    return _keys(config, original=False)


def original_keys(config: WanVAEConfig) -> KeyMap:
    """The authors' own names (``wan/modules/vae2_1.py`` and ``vae2_2.py``)."""
    return _keys(config, original=True)


def _keys(config: WanVAEConfig, *, original: bool) -> KeyMap:
    quant, post = ("conv1", "conv2") if original else ("quant_conv", "post_quant_conv")
    rules = [*_both(quant, "quant_conv"), *_both(post, "post_quant_conv")]
    for side in ("encoder", "decoder"):
        rules += _both(f"{side}.conv1" if original else f"{side}.conv_in", f"{side}.conv_in")
        rules += _middle(side, original)
        rules += _encoder_stages(config, original) if side == "encoder" else _decoder_stages(config, original)
        rules.append(
            Rule.of(f"{side}.head.0.gamma" if original else f"{side}.norm_out.gamma", f"{side}.norm_out.gamma")
        )
        rules += _both(f"{side}.head.2" if original else f"{side}.conv_out", f"{side}.conv_out")
    return KeyMap(rules)


def _middle(side: str, original: bool) -> Iterator[Rule]:
    ours = f"{side}.mid_block"
    for index in (0, 1):
        theirs = f"{side}.middle.{2 * index}" if original else f"{ours}.resnets.{index}"
        yield from _residual(theirs, f"{ours}.resnets.{index}", _ORIGINAL if original else _DIFFUSERS, False)
    theirs = f"{side}.middle.1" if original else f"{ours}.attentions.0"
    yield Rule.of(f"{theirs}.norm.gamma", f"{ours}.attentions.0.norm.gamma")
    yield from _both(f"{theirs}.to_qkv", f"{ours}.attentions.0.to_qkv", POINTWISE)
    yield from _both(f"{theirs}.proj", f"{ours}.attentions.0.proj", POINTWISE)


def _resample(theirs: str, ours: str, in_time: bool) -> Iterator[Rule]:
    yield from _both(f"{theirs}.resample.1", f"{ours}.resample.1")
    if in_time:
        yield from _both(f"{theirs}.time_conv", f"{ours}.time_conv")


def _encoder_stages(config: WanVAEConfig, original: bool) -> Iterator[Rule]:
    names = _ORIGINAL if original else _DIFFUSERS
    widths = (config.stages[0], *config.stages)
    flat = 0
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        halves = index < len(config.in_time)
        for layer in range(config.layers):
            ours = f"encoder.down_blocks.{index}.resnets.{layer}" if config.shortcuts else f"encoder.down_blocks.{flat}"
            theirs = ours
            if original:
                inner = f"{index}.downsamples.{layer}" if config.shortcuts else str(flat)
                theirs = f"encoder.downsamples.{inner}"
            yield from _residual(theirs, ours, names, layer == 0 and inputs != outputs)
            flat += 1
        if halves:
            ours = f"encoder.down_blocks.{index}.downsampler" if config.shortcuts else f"encoder.down_blocks.{flat}"
            theirs = ours
            if original:
                inner = f"{index}.downsamples.{config.layers}" if config.shortcuts else str(flat)
                theirs = f"encoder.downsamples.{inner}"
            yield from _resample(theirs, ours, config.in_time[index])
            flat += 1


def _decoder_stages(config: WanVAEConfig, original: bool) -> Iterator[Rule]:
    names = _ORIGINAL if original else _DIFFUSERS
    widths = (config.decoder_stages[0], *config.decoder_stages)
    in_time = config.in_time[::-1]
    flat = 0
    for index, (before, outputs) in enumerate(pairwise(widths)):
        inputs = before if config.shortcuts or index == 0 else before // 2
        for layer in range(config.layers + 1):
            ours = f"decoder.up_blocks.{index}.resnets.{layer}"
            inner = f"{index}.upsamples.{layer}" if config.shortcuts else str(flat)
            theirs = f"decoder.upsamples.{inner}" if original else ours
            yield from _residual(theirs, ours, names, layer == 0 and inputs != outputs)
            flat += 1
        if index < len(in_time):
            ours = f"decoder.up_blocks.{index}." + ("upsampler" if config.shortcuts else "upsamplers.0")
            inner = f"{index}.upsamples.{config.layers + 1}" if config.shortcuts else str(flat)
            yield from _resample(f"decoder.upsamples.{inner}" if original else ours, ours, in_time[index])
            flat += 1
