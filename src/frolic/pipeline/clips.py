"""From a clip's latents to its frames and back, in the memory that there is; and what a given first frame ties it to.

B batch, C latent channels, T/H/W frames, height and width of the clip, t/h/w of its latents.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frolic.accel.memory import free_bytes
from frolic.errors import RequestError, ResourceError
from frolic.models.wan_vae import WanVAE, decode_tiled, encode_tiled, tile_for
from frolic.models.wan_vae.sizes import SMALLEST
from frolic.pipeline.attempt import TiledWork, attempt, descend
from frolic.pipeline.finite import require_finite, require_varied
from frolic.pipeline.inputs import Anchors, Given
from frolic.spec import SamplingDefaults

_SMALLER = (256, 128, SMALLEST)
_REFINE_RATE = 0.05
"""Of Adam, so about how far a latent (of deviation 1) moves in an update."""


class ClipStage:
    """An autoencoder of clips, which works frame after frame, on whole frames or on tiles of them (``tiling``: ``auto``
    where memory asks for it, ``on`` or ``off``). Where memory runs out all the same, the tiles become smaller, and at
    last it is done on the CPU in float32; ``notes`` are told. ``refine``: how many updates a frame's latents get."""

    def __init__(
        self, vae: WanVAE, *, device: torch.device, dtype: torch.dtype, tiling: str = "auto", refine: int = 0
    ) -> None:
        self.vae = vae
        self.device = device
        self.dtype = dtype
        self.tiling = tiling
        self.refine = refine

    def decode(
        self, latents_1Cthw: Tensor, *, notes: list[str], keep: Callable[[Tensor], Path | None] | None = None
    ) -> Tensor:
        """A clip ``[1, 3, T, H, W]`` on the CPU, in float32, of latents in the transformer's scale; about [-1, 1].
        ``keep`` saves the latents if nothing helps, and says where.

        Raises:
            NumericsError: it is not finite, or of one flat colour.
            ResourceError: memory ran out everywhere.
        """
        pixels = self._decode(latents_1Cthw, notes, keep)
        require_varied(pixels, "a clip")
        return pixels

    def preview(self, latents_BCthw: Tensor) -> Tensor:
        """The first frames ``[B, 3, 1, H, W]`` of clips, which no later one has a part in.

        Raises:
            NumericsError: one is not finite.
            ResourceError: memory ran out everywhere.
        """
        return torch.cat([self._decode(row[:, :, :1], [], None) for row in latents_BCthw.split(1)])

    def encode(self, pixels_13THW: Tensor, *, notes: list[str]) -> Tensor:
        """Latents ``[1, C, t, h, w]`` in the transformer's scale, in float32, of pixels in [-1, 1].

        Raises:
            NumericsError: they are not finite.
            ResourceError: memory ran out everywhere.
        """

        def work(device: torch.device, dtype: torch.dtype, tile: int | None) -> Tensor:
            x = pixels_13THW.to(device, dtype)
            z = self.vae.encode_chunked(x) if tile is None else encode_tiled(self.vae, x, tile=tile)
            return self.vae.scaled(z.float())

        latents = self._descend("Encoding", work, tuple(pixels_13THW.shape[-2:]), notes)
        if latents is None:
            raise ResourceError("Memory ran out while the first frame was encoded; use a smaller one.")
        require_finite(latents, "The encoder")
        return self._refined(latents, pixels_13THW) if self.refine and pixels_13THW.shape[2] == 1 else latents

    def _refined(self, latents_1C1hw: Tensor, pixels_131HW: Tensor) -> Tensor:
        """``latents`` of a frame, in the transformer's scale, moved to where the decoder gives more of its ``pixels``
        back, by Adam on the squared difference. Where there is no memory for gradients they stay as they are.
        """

        def work() -> Tensor:
            # What comes here was made in inference mode, and can be no part of a graph.
            with torch.inference_mode(False), torch.enable_grad():
                frame = pixels_131HW.to(self.device, torch.float32, copy=True)
                moved = latents_1C1hw.to(self.device, torch.float32, copy=True).requires_grad_()
                adam = torch.optim.Adam([moved], lr=_REFINE_RATE)
                for _ in range(self.refine):
                    shown = self.vae.decode(self.vae.unscaled(moved).to(self.dtype)).float()
                    (moved.grad,) = torch.autograd.grad((shown - frame).square().mean(), [moved])
                    adam.step()
                return moved.detach()

        moved = attempt(work, self.device)
        if moved is None:
            return latents_1C1hw
        require_finite(moved, "Refining the first frame")
        return moved.to(latents_1C1hw.device)

    def _decode(self, latents: Tensor, notes: list[str], keep: Callable[[Tensor], Path | None] | None) -> Tensor:
        height, width = (side * self.vae.config.stride for side in latents.shape[-2:])

        def work(device: torch.device, dtype: torch.dtype, tile: int | None) -> Tensor:
            z = self.vae.unscaled(latents.to(device, torch.float32)).to(dtype)
            if tile is not None:
                return decode_tiled(self.vae, z, tile=tile)
            # Frames are small beside what they are computed with, and there is more memory beside the CPU.
            return torch.cat([part.float().cpu() for part in self.vae.stream_decode(z)], dim=2)

        pixels = self._descend("Decoding", work, (height, width), notes)
        if pixels is None:
            path = keep(latents) if keep is not None else None
            kept = f" its latents are in {path}, decode them later with --resume-decode;" if path is not None else ""
            raise ResourceError(
                f"Memory ran out while the clip of {width}x{height} was decoded;{kept} close other programs or ask for "
                "a smaller size."
            )
        require_finite(pixels, "The decoder")
        return pixels

    def _descend(self, doing: str, work: TiledWork, size: tuple[int, ...], notes: list[str]) -> Tensor | None:
        """What ``work`` gives with the first tile that there is memory for; None if there is for none."""
        free = free_bytes(self.device)
        first = tile_for(self.vae.config, size[0], size[1], self.dtype.itemsize, free, self.tiling)
        tiles = [first, *(side for side in _SMALLER if first is None or side < first)]
        return descend(
            work,
            lambda: self.vae,
            tiles,
            self.device,
            self.dtype,
            doing=doing,
            pieces="in tiles of {} pixels",
            notes=notes,
        )


def check_given(given: Given, transformer: Any, defaults: SamplingDefaults) -> None:
    """Refuse pictures that a model of clips has no use for, or the lack of the one that it needs.

    Raises:
        RequestError: listing all of it.
    """
    problems = []
    begins = transformer.known_channels > 0 or defaults.clean_first
    if given.mask is not None:
        problems.append("a mask acts on pictures, and this model makes videos; leave it out")
    if given.control is not None:
        problems.append("a control picture acts on pictures, and this model makes videos; leave it out")
    if given.image is not None and not begins:
        problems.append("this model makes videos of a text alone; leave out the image, or use an image-to-video model")
    if given.image is None and transformer.known_channels > 0:
        problems.append("this model makes videos that begin with an image; give --image")
    if problems:
        raise RequestError(f"Change the request: {'; '.join(problems)}.")


def clip_anchors(
    given: Given, encode: Callable[[Tensor], Tensor], transformer: Any, frames: int, frame_stride: int
) -> Anchors:
    """A first frame, at the size that is drawn, as what a clip of ``frames`` is tied to. ``encode``: [1, 3, T, H, W] in
    [-1, 1] to latents in the transformer's scale.

    A model that takes what is known beside the noise gets, for each latent frame, which of its frames are known, and
    the latents of a clip that goes on in grey (Wan2.1 and 2.2, ``wan/image2video.py``); another one begins with the
    frame's own latents (Wan2.2 TI2V).
    """
    if given.image is None:
        return Anchors()
    first = given.image[:, :, None]
    if not transformer.known_channels:
        return Anchors(first=encode(first))
    clip = torch.cat([first, first.new_zeros(1, 3, frames - 1, *first.shape[-2:])], dim=2)
    latents = encode(clip)
    mask = torch.zeros(1, frame_stride, *latents.shape[2:])
    mask[:, :, 0] = 1
    return Anchors(beside=torch.cat([mask.to(latents), latents], dim=1))
