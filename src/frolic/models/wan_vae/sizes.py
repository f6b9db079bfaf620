"""What decoding a clip takes, and when frames are cut in tiles. Sizes are in pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frolic.errors import RequestError

if TYPE_CHECKING:
    from frolic.models.wan_vae.config import WanVAEConfig

_SHARE = 0.6  # of the free memory that may be used
SMALLEST = 64


def decode_bytes(config: WanVAEConfig, height: int, width: int, itemsize: int) -> int:
    """About what decoding holds at its widest, of one latent frame after the other: the last stage that doubles, whose
    frames, their predecessors and results are there together, its norms in float32, and what every layer keeps."""
    pixels = height * width // (config.patch or 1) ** 2
    widest = max(config.decoder_stages[-2] // (1 if config.shortcuts else 2), config.decoder_stages[-1])
    working = pixels * config.frame_stride * widest * (4 * itemsize + 8)
    return int(working + kept_bytes(config, height, width, itemsize))


def kept_bytes(config: WanVAEConfig, height: int, width: int, itemsize: int) -> int:
    """What is kept from one latent frame to the next: of each convolution in time the two frames it saw last."""
    stages, in_time = config.decoder_stages, config.in_time[::-1]
    pixels = height * width // config.stride**2
    values = pixels * (config.latent_channels + 4 * stages[0])  # what reads the latents, and the middle
    before = stages[0]
    for index, after in enumerate(stages):
        doubles = index < len(in_time)
        values += pixels * (before + after + 2 * config.layers * after)
        values += pixels * after if doubles and in_time[index] else 0
        # Without shortcuts, what doubles the sides halves the width.
        before = after if config.shortcuts else after // 2
        pixels *= 4 if doubles else 1
    return 2 * itemsize * (values + pixels * stages[-1])


def decode_flops(config: WanVAEConfig, height: int, width: int) -> float:
    """Operations of decoding one latent frame: its 3x3x3 convolutions, which are nearly all of them."""
    total, pixels, frames = 0.0, height * width / config.stride**2, 1.0
    in_time = config.in_time[::-1]
    for index, stage in enumerate(config.decoder_stages):
        total += 2 * 27 * stage * stage * 2 * (config.layers + 1) * pixels * frames
        if index < len(in_time):
            pixels *= 4
            frames *= 2 if in_time[index] else 1
    return total


def tile_for(
    config: WanVAEConfig, height: int, width: int, itemsize: int, free: int, tiling: str = "auto"
) -> int | None:
    """The side of the tiles in pixels, or None for whole frames: ``auto`` where they would take more than most of the
    ``free`` bytes, ``on`` for any that are larger than 256.

    Raises:
        RequestError: ``tiling`` is neither of these nor ``off``.
    """
    if tiling not in ("auto", "on", "off"):
        raise RequestError(f"tiling is {tiling!r}; give auto, on or off.")
    if tiling == "off":
        return None
    if tiling == "on":
        return 256 if max(height, width) > 256 else None
    if decode_bytes(config, height, width, itemsize) <= _SHARE * free:
        return None
    for side in (768, 512, 384, 256, 192, 128):
        if side < max(height, width) and decode_bytes(config, side, side, itemsize) <= _SHARE * free:
            return side
    return SMALLEST
