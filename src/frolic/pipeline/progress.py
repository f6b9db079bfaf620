"""What is told of a drawing while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from frolic.pipeline.finish import Finishing
from frolic.pipeline.result import to_image
from frolic.types import Latents

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Progress:
    """One step done, of ``total``, for the pictures ``first`` to ``first + len(latents)``."""

    index: int
    total: int
    first: int
    latents: Latents
    _pipeline: Finishing

    def preview(self) -> list[Image]:
        """The pictures as the model expects them to become, and of clips their first frames."""
        with torch.inference_mode():
            try:
                rows = [self._pipeline.decode(Latents(row)).tensor[0] for row in self.latents.tensor.split(1)]
                return [to_image(row if row.ndim == 3 else row[:, 0]) for row in rows]
            finally:
                self._pipeline.spare("vae")
