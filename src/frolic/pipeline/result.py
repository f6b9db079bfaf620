"""What a drawing gives back, and which model gave it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import frolic
from frolic.io import media
from frolic.io.safetensors import fingerprint
from frolic.request import Request

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


@dataclass(frozen=True)
class ModelCard:
    """Which model it is. ``files`` are all that decides what it draws, weights and settings; ``hash`` is their SHA-256,
    computed when asked."""

    name: str
    version: str
    family: str
    files: tuple[Path, ...]

    @cached_property
    def hash(self) -> str:
        return fingerprint(self.files)


@dataclass(frozen=True)
class Result:
    """What came out: ``images`` (PIL), or ``videos`` (arrays of bytes [T, H, W, 3]), or ``pixels`` [B, 3, H, W] (of
    videos [B, 3, T, H, W]) in [-1, 1], as asked.

    ``request`` has nothing left open, ``seconds`` is what it took, ``notes`` what the user should be told, ``batches``
    for each picture its place in the batch it was drawn in and how large that was, ``tokens`` the width of the text.
    """

    images: tuple[Image, ...]
    pixels: Tensor | None
    request: Request
    seconds: float
    notes: list[str]
    model: ModelCard
    settings: dict[str, Any]
    batches: tuple[tuple[int, int], ...]
    tokens: int
    videos: tuple[np.ndarray, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every picture: with it, the picture can be drawn alone."""
        return self.request.seeds

    def record(self, index: int = 0) -> dict[str, Any]:
        """How picture ``index`` was made, as JSON without paths: what a PNG carries and ``--from`` reads."""
        card = self.model
        return {
            "schema": media.SCHEMA,
            "version": frolic.__version__,
            "model": {"name": card.name, "version": card.version, "family": card.family, "hash": card.hash},
            "request": self.request.picture(index),
            "batch": [*self.batches[index], self.tokens],
            **self.settings,
        }

    def save(self, path: str | Path, index: int = 0, *, metadata: bool = True, force: bool = False) -> Path:
        """Write picture ``index`` as PNG, or clip ``index`` as what ``path`` ends in (``frolic.io.video``), whole or
        not at all.

        Raises:
            FileError: something is at ``path`` and ``force`` is not set, or nothing can be written there.
            ResourceError: the disk is full.
        """
        path = Path(path)
        if self.videos:
            from frolic.io.video import save_clip

            record = self.record(index) if metadata else None
            save_clip(self.videos[index], path, fps=self.request.fps or 1.0, record=record, force=force)
            return path
        media.save_png(self.images[index], path, self.record(index) if metadata else None, force=force)
        return path


def to_frames(pixels: Tensor) -> np.ndarray:
    """[3, T, H, W] in [-1, 1] to bytes [T, H, W, 3]."""
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)
    return array.contiguous().cpu().numpy()


def to_image(pixels: Tensor) -> Image:
    """[3, H, W] in [-1, 1] to a PIL picture."""
    from PIL import Image

    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(array.contiguous().cpu().numpy())
