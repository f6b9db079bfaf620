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
    """What came out: ``images`` (PIL), or ``videos`` (each uint8 [T, H, W, 3]) where a picture has more than one frame,
    or ``pixels`` [B, 3, H, W] (of a model of videos [B, 3, T, H, W]) in [-1, 1], as asked.

    ``request`` has nothing left open, ``seconds`` is what it took, ``notes`` what the user should be told, ``batches``
    for each picture its place in the batch it was drawn in and how large that was, ``tokens`` the width of the text.
    What is said of pictures holds for videos.
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
        """How picture ``index`` was made, as JSON without paths: what its file carries and ``--from`` reads."""
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
        """Write picture ``index`` as PNG, or the video as what its name ends in (``frolic.io.video.save_video``), whole
        or not at all.

        Raises:
            RequestError: the name is none of a video.
            FileError: something is at ``path`` and ``force`` is not set, or nothing can be written there.
            ResourceError: the disk is full.
        """
        path = Path(path)
        record = self.record(index) if metadata else None
        if self.videos:
            from frolic.io.video import save_video

            assert self.request.fps is not None, "a completed request of a video has it"
            save_video(self.videos[index], path, fps=self.request.fps, record=record, force=force)
        else:
            media.save_png(self.images[index], path, record, force=force)
        return path


def to_image(pixels: Tensor) -> Image:
    """[3, H, W] in [-1, 1] to a PIL picture."""
    from PIL import Image

    return Image.fromarray(_bytes(pixels))


def to_frames(pixels: Tensor) -> np.ndarray:
    """[3, T, H, W] in [-1, 1] to uint8 [T, H, W, 3]. One frame at a time: the floats of all would take four times as
    much memory as the frames."""
    import numpy as np

    frames = np.empty((*pixels.shape[1:], 3), np.uint8)
    for number, frame in enumerate(pixels.unbind(1)):
        frames[number] = _bytes(frame)
    return frames


def _bytes(pixels: Tensor) -> np.ndarray:
    """[3, H, W] in [-1, 1] to uint8 [H, W, 3]."""
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    result: np.ndarray = array.contiguous().cpu().numpy()
    return result
