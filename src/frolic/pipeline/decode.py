"""From latents to a picture and back, in the memory that there is.

B batch, C latent channels, H/W height and width of the picture, h/w of the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from frolic.accel.memory import free_bytes
from frolic.errors import NumericsError, ResourceError, is_out_of_memory
from frolic.models.dcae import DCAE
from frolic.models.dcae.sizes import TILES, Side, tile_for
from frolic.models.dcae.tiling import decode_tiled, encode_tiled

_Work = Callable[[torch.device, torch.dtype, int | None], Tensor]
_SPARE = 0.8
"""Of the free memory, what may be planned with: estimates err, and others allocate too."""


class DecodeStage:
    """An autoencoder that turns one picture at a time into latents and back, whole or in strips of rows.

    ``tiling`` "auto" chooses what fits the free memory and is fast, "on" strips, "off" the whole; they differ by
    rounding. Where memory runs out all the same, the strips become smaller, and at last it is done on the CPU in
    float32; ``notes`` are told.
    """

    def __init__(self, vae: DCAE, *, device: torch.device, dtype: torch.dtype, tiling: str = "auto") -> None:
        assert tiling in ("auto", "on", "off")
        self.vae = vae
        self.device = device
        self.dtype = dtype
        self.tiling = tiling

    def decode(
        self, latents_1Chw: Tensor, *, notes: list[str], keep: Callable[[Tensor], Path | None] | None = None
    ) -> Tensor:
        """A picture ``[1, 3, H, W]``, in float32, of latents in the transformer's scale. Its range is [-1, 1], but it
        is not yet cut there: diffusers does so after resizing. ``keep`` saves the latents if nothing helps, and says
        where.

        Raises:
            NumericsError: the picture is not finite, or of one flat colour.
            ResourceError: memory ran out everywhere.
        """
        height, width = (side * self.vae.config.stride for side in latents_1Chw.shape[-2:])

        def work(device: torch.device, dtype: torch.dtype, tile: int | None) -> Tensor:
            z = (latents_1Chw.to(device, torch.float32) / self.vae.config.scaling_factor).to(dtype)
            return (self.vae.decode(z) if tile is None else decode_tiled(self.vae, z, tile=tile)).float()

        pixels = self._descend("decoder", work, (height, width), notes)
        if pixels is None:
            path = keep(latents_1Chw) if keep is not None else None
            kept = f" its latents are in {path}, decode them later with --resume-decode;" if path is not None else ""
            raise ResourceError(
                f"Memory ran out while the picture of {width}x{height} was decoded;{kept} close other programs or ask "
                "for a smaller size."
            )
        _require_finite(pixels, "decoder")
        darkest, brightest = pixels.amin((2, 3)).clamp(-1, 1), pixels.amax((2, 3)).clamp(-1, 1)
        if torch.equal(darkest, brightest):
            raise NumericsError("The decoder gave a picture of one flat colour; try --dtype float32 or another model.")
        return pixels

    def encode(self, pixels_13HW: Tensor, *, notes: list[str]) -> Tensor:
        """Latents ``[1, C, h, w]`` in the transformer's scale, in float32, of pixels in [-1, 1].

        Raises:
            NumericsError: they are not finite.
            ResourceError: memory ran out everywhere.
        """
        height, width = pixels_13HW.shape[-2:]

        def work(device: torch.device, dtype: torch.dtype, tile: int | None) -> Tensor:
            x = pixels_13HW.to(device, dtype)
            z = self.vae.encode(x) if tile is None else encode_tiled(self.vae, x, tile=tile)
            return z.float() * self.vae.config.scaling_factor

        latents = self._descend("encoder", work, (height, width), notes)
        if latents is None:
            raise ResourceError(
                f"Memory ran out while the picture of {width}x{height} was encoded; close other programs or use a "
                "smaller one."
            )
        _require_finite(latents, "encoder")
        return latents

    def _descend(self, side: Side, work: _Work, size: tuple[int, int], notes: list[str]) -> Tensor | None:
        """What ``work`` gives with the first tile that there is memory for; None if there is for none."""
        doing = "Decoding" if side == "decoder" else "Encoding"
        for number, tile in enumerate(_smaller(self._first(side, size))):
            if number:
                notes.append(f"{doing} ran out of memory on {self.device.type}; done again {tile} rows at a time.")
            done = _attempt(work, self.device, self.dtype, tile)
            if done is not None or (self.device.type == "cpu" and tile == TILES[0]):
                return done
        notes.append(f"{doing} ran out of memory on {self.device.type}; done on the CPU in float32, which is slower.")
        module = self.vae.decoder if side == "decoder" else self.vae.encoder
        module.to("cpu", torch.float32)
        try:
            return _attempt(work, torch.device("cpu"), torch.float32, TILES[0])
        finally:
            module.to(self.device, self.dtype)

    def _first(self, side: Side, size: tuple[int, int]) -> int | None:
        if self.tiling == "off":
            return None
        budget = int(_SPARE * free_bytes(self.device))
        tile = tile_for(self.vae.config, *size, self.dtype.itemsize, budget, self.device.type, side)
        if tile is None and self.tiling == "on":
            return max((tile for tile in TILES if tile < size[0]), default=TILES[0])
        return tile


def _smaller(tile: int | None) -> Iterator[int | None]:
    """``tile``, and after it a few ever smaller ones."""
    yield tile
    yield from (size for size in (256, 64, TILES[0]) if tile is None or size < tile)


def _attempt(work: _Work, device: torch.device, dtype: torch.dtype, tile: int | None) -> Tensor | None:
    try:
        return work(device, dtype, tile)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Here the error is gone, and with it the tensors of the frames that it held.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _require_finite(tensor: Tensor, side: Side) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise NumericsError(f"The {side} gave values that are not finite; try --dtype float32.")
