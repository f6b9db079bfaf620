"""From latents to a picture and back, in the memory that there is.

B batch, C latent channels, H/W height and width of the picture, h/w of the latents.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from frolic.accel.memory import free_bytes
from frolic.errors import ResourceError
from frolic.models.dcae import DCAE
from frolic.models.dcae.sizes import TILES, Side, tile_for
from frolic.models.dcae.tiling import decode_tiled, encode_tiled
from frolic.pipeline.attempt import TiledWork, descend
from frolic.pipeline.finite import require_finite, require_varied

_SMALLER = (256, 64, TILES[0])


class DecodeStage:
    """An autoencoder that turns one picture at a time into latents and back, whole or in strips of rows.

    ``tiling`` is that of ``tile_for``; the whole and strips differ by rounding. Where memory runs out all the same, the
    strips become smaller, and at last it is done on the CPU in float32; ``notes`` are told.
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
        pixels = self._decode(latents_1Chw, notes, keep)
        require_varied(pixels, "a picture")
        return pixels

    def preview(self, latents_BChw: Tensor) -> Tensor:
        """As ``decode``, of any number of pictures, which may be of one colour; what had to be done is not told.

        Raises:
            NumericsError: a picture is not finite.
            ResourceError: memory ran out everywhere.
        """
        pictures = [self._decode(row, [], None) for row in latents_BChw.split(1)]
        # Where memory ran out, some were made on the CPU.
        where = next((picture.device for picture in pictures if picture.device.type == "cpu"), self.device)
        return torch.cat([picture.to(where) for picture in pictures])

    def _decode(self, latents_1Chw: Tensor, notes: list[str], keep: Callable[[Tensor], Path | None] | None) -> Tensor:
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
        require_finite(pixels, "The decoder")
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
        require_finite(latents, "The encoder")
        return latents

    def _descend(self, side: Side, work: TiledWork, size: tuple[int, int], notes: list[str]) -> Tensor | None:
        """What ``work`` gives with the first tile that there is memory for; None if there is for none."""
        doing = "Decoding" if side == "decoder" else "Encoding"
        first = self._first(side, size)
        if first is not None and self.tiling == "off":
            notes.append(f"{doing} was done in pieces: {self.device.type} cannot address so large a picture at once.")
        tiles = [first, *(tile for tile in _SMALLER if first is None or tile < first)]

        def worker() -> nn.Module:
            return self.vae.decoder if side == "decoder" else self.vae.encoder

        return descend(
            work, worker, tiles, self.device, self.dtype, doing=doing, pieces="{} rows at a time", notes=notes
        )

    def _first(self, side: Side, size: tuple[int, int]) -> int | None:
        free = free_bytes(self.device)
        return tile_for(self.vae.config, *size, self.dtype.itemsize, free, self.device.type, self.tiling, side)
