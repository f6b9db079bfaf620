"""The last part of a drawing: latents to pictures of the size that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from frolic.errors import RequestError
from frolic.lora.experts import HIGH, LOW
from frolic.pipeline.decode import DecodeStage
from frolic.pipeline.inputs import Given
from frolic.pipeline.kept import Kept
from frolic.pipeline.parts import Parts
from frolic.pipeline.resize import fit
from frolic.pipeline.result import Result, to_frames, to_image
from frolic.types import Latents, Pixels, PixelSize

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from frolic.pipeline.clips import ClipStage
    from frolic.spec import SamplingDefaults


class Finishing(Parts):
    """Decodes with the ``vae`` of its parts, on ``device``; ``dtypes`` says in which, ``tiling`` how, and ``rescue`` is
    the folder for latents that no memory was left to decode."""

    defaults: SamplingDefaults

    def __init__(
        self,
        *,
        device: torch.device | str,
        dtypes: Mapping[str, torch.dtype],
        tiling: str,
        rescue: Path | None,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self.device = torch.device(device)
        self.dtypes = dtypes
        self.tiling = tiling
        self.rescue = rescue

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's."""
        return self.dtypes.get("transformer", torch.float32)

    @property
    def makes_clips(self) -> bool:
        """Whether its autoencoder is one of clips; a picture is a clip of one frame to it."""
        return hasattr(self._held["vae"].config, "frame_stride")

    @property
    def experts(self) -> tuple[str, ...]:
        """What an adapter's ``target`` can name: ``high`` and ``low`` where there are two transformers."""
        return () if self._held["transformer_2"].config is None else (HIGH, LOW)

    def decode(self, latents: Latents) -> Pixels:
        """Latents to pixels, not clamped. Leaves the grad mode alone; without gradients, in the memory there is, and of
        a clip its first frame only."""
        if not torch.is_grad_enabled():
            return Pixels(self._autoencoder().preview(latents.tensor))
        vae = self.vae
        z = latents.tensor.to(self.device, self._dtype("vae"))
        return Pixels(vae.decode(vae.unscaled(z) if self.makes_clips else z / vae.config.scaling_factor).float())

    def _pictures(self, finished: Sequence[Tensor], result: Result, given: Given) -> Tensor:
        """[B, 3, H, W], or [B, 3, T, H, W] of clips, on the CPU. Decoded one at a time: batch mates cannot change a
        picture, and memory stays low."""
        latents = torch.cat([row.cpu() for row in finished])
        size = PixelSize(result.request.height or 0, result.request.width or 0)

        def keep(_: Tensor) -> Path | None:
            if self.rescue is None:
                return None
            return Kept(latents, tuple(result.record(i) for i in range(len(latents))), given).save(self.rescue)

        pixels = []
        for row in finished:
            picture = self._decode_checked(row, result.notes, keep)
            pixels.append(self._fitted(picture, size, given).clamp(-1, 1))
        return torch.cat(pixels).clone()

    def resume(self, kept: Kept, notes: list[str] | None = None) -> tuple[Image | np.ndarray, ...]:
        """The pictures (PIL) or videos (bytes [T, H, W, 3]) whose latents were ``kept``, at their size; ``notes`` gets
        what the user should be told.

        Raises:
            RequestError: the latents are another model's.
            NumericsError, ResourceError: as a call.
        """
        config = self._held["vae"].config
        channels = kept.latents.shape[1]
        if channels != config.latent_channels:
            raise RequestError(f"These latents have {channels} channels, this model's have {config.latent_channels}.")
        images: list[Image | np.ndarray] = []
        said: list[str] = [] if notes is None else notes
        try:
            for row, record in zip(kept.latents.split(1), kept.records, strict=True):
                size = PixelSize(record["request"]["height"], record["request"]["width"])
                if kept.given.size not in (None, (size.height, size.width)):
                    raise RequestError("These latents are not of the size of the image that was kept with them.")
                made = self._fitted(self._decode_checked(row, said, None), size, kept.given)[0]
                still = made if made.ndim == 3 else made[:, 0]
                images.append(to_frames(made) if made.ndim == 4 and made.shape[1] > 1 else to_image(still))
        finally:
            self.spare("vae")
        return tuple(images)

    @staticmethod
    def _fitted(picture: Tensor, size: PixelSize, given: Given) -> Tensor:
        if picture.ndim == 4:
            return given.around(fit(picture, size))
        return fit(picture[0].transpose(0, 1), size).transpose(0, 1)[None]

    def _decode_checked(self, row: Tensor, notes: list[str], keep: Callable[[Tensor], Path | None] | None) -> Tensor:
        """A picture [1, 3, H, W], or a clip [1, 3, T, H, W], on the CPU, not yet cut to [-1, 1]."""
        with torch.inference_mode():
            return self._autoencoder().decode(row, notes=notes, keep=keep).cpu()

    def _autoencoder(self) -> DecodeStage | ClipStage:
        if self.makes_clips:
            from frolic.pipeline.clips import ClipStage

            return ClipStage(
                self.vae,
                device=self.device,
                dtype=self._dtype("vae"),
                tiling=self.tiling,
                refine=self.defaults.refine,
            )
        return DecodeStage(self.vae, device=self.device, dtype=self._dtype("vae"), tiling=self.tiling)

    def _dtype(self, part: str) -> torch.dtype:
        return self.dtypes.get(part, self.dtype)
