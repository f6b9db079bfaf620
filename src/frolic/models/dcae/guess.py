"""The config of an autoencoder in the authors' naming, from the names and shapes of its tensors."""

from __future__ import annotations

import re

from frolic.errors import CheckpointError
from frolic.models.dcae.config import RES, VIT, DCAEConfig, Stage
from frolic.models.layouts import Guess, Shapes, required, shape_of

SCALING_FACTOR = 0.41407
"""How SANA scales the latents of its autoencoders; other models scale those of theirs otherwise."""


def guess(shapes: Shapes) -> Guess:
    """An autoencoder's config.

    Raises:
        CheckpointError: a tensor is missing without which there is nothing to go by.
    """
    encoder, decoder = _stages(shapes, "encoder"), _stages(shapes, "decoder")
    base = DCAEConfig()
    mixing = next((name for name in shapes if re.search(r"\.aggreg\.\d+\.1\.weight$", name)), "")
    mix = shape_of(shapes, mixing, 4)
    averaged = "encoder.project_out.main.op_list.0.conv.weight"
    repeated = "decoder.project_in.main.conv.weight"
    latents = shape_of(shapes, averaged, 4) or shape_of(shapes, averaged.replace(".main", ""), 4)
    first = "encoder.project_in.conv."
    pixels = shape_of(shapes, f"{first}weight", 4) or shape_of(shapes, f"{first}conv.weight", 4)
    if latents is None or pixels is None:
        raise CheckpointError("The autoencoder's first or last convolution is missing; get the file again.")
    strided = any(re.fullmatch(r"encoder\..*\.main\.conv\.weight", name) for name in shapes)
    config = DCAEConfig(
        in_channels=pixels[1],
        latent_channels=latents[0],
        head_dim=mix[1] if mix else base.head_dim,
        encoder=encoder,
        decoder=decoder,
        down="conv" if strided else "pixel_unshuffle",
        up="interpolate" if _interpolates(shapes, decoder) else "pixel_shuffle",
        encoder_out_shortcut=averaged in shapes,
        decoder_in_shortcut=repeated in shapes,
        scaling_factor=SCALING_FACTOR,
    )
    said = f"The file does not say how its latents are scaled; SANA's {SCALING_FACTOR} is assumed."
    return Guess(config, {"scaling_factor": said, "decoder_out_activation": "", **({} if mix else {"head_dim": ""})})


def _interpolates(shapes: Shapes, stages: tuple[Stage, ...]) -> bool:
    """Whether the decoder enlarges first and then convolves; otherwise it makes four pixels' channels at once."""
    widths = [
        (shape_of(shapes, f"decoder.stages.{i}.op_list.0.main.conv.conv.weight", 4), s.width)
        for i, s in enumerate(stages)
    ]
    return any(shape is not None and shape[0] == width for shape, width in widths)


def _stages(shapes: Shapes, side: str) -> tuple[Stage, ...]:
    """One side's stages, numbered from full resolution down."""
    found: dict[int, dict[int, tuple[str, int]]] = {}
    kernels: dict[int, set[tuple[int, int]]] = {}
    for name in shapes:
        if not (match := re.fullmatch(rf"{side}\.stages\.(\d{{1,4}})\.op_list\.(\d{{1,4}})\.(.+)", name)):
            continue
        stage, block, rest = int(match[1]), int(match[2]), match[3]
        if rest == "main.conv1.conv.weight":
            found.setdefault(stage, {})[block] = (RES, required(shapes, name, 4)[0])
        elif rest == "context_module.main.proj.conv.weight":
            found.setdefault(stage, {})[block] = (VIT, required(shapes, name, 4)[0])
        elif more := re.fullmatch(r"context_module\.main\.aggreg\.(\d{1,4})\.0\.weight", rest):
            kernels.setdefault(stage, set()).add((int(more[1]), required(shapes, name, 4)[-1]))
    if 0 not in found and 1 in found:
        # A first stage without blocks has no tensors; its width is never used.
        found[0] = {}
    if sorted(found) != list(range(len(found))) or not found:
        raise CheckpointError(f"The autoencoder's {side} has a stage without blocks, or no stages; get the file again.")
    stages = []
    for index, blocks in sorted(found.items()):
        if not blocks:
            stages.append(Stage(RES, max(found[1].values())[1] // 2, 0))
            continue
        if len(set(blocks.values())) > 1:
            raise CheckpointError(
                f"Stage {index} of the autoencoder's {side} mixes blocks; frolic knows no such model."
            )
        kind, width = next(iter(blocks.values()))
        stages.append(Stage(kind, width, len(blocks), tuple(size for _, size in sorted(kernels.get(index, ())))))
    return tuple(stages)
