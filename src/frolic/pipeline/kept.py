"""Latents that were kept because there was no memory to decode them, and how they are decoded later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from frolic.errors import FileError
from frolic.io import safetensors
from frolic.pipeline.inputs import Given
from frolic.request import Request

_NAME, _RECORDS = "latents", "frolic"


@dataclass(frozen=True)
class Kept:
    """``latents`` [B, C, h, w], or of clips [B, C, t, h, w], in the transformer's scale, and of each picture the record
    it would have carried.
    ``given`` holds, at the size of the pictures, the image and the mask where some of that image stays."""

    latents: Tensor
    records: tuple[dict[str, Any], ...]
    given: Given = field(default_factory=Given)

    def save(self, folder: Path) -> Path:
        """Write into ``folder``, under a name that is free.

        Raises:
            FileError, ResourceError: nothing can be written there.
        """
        seed = self.records[0]["request"]["seed"]
        number, path = 1, folder / f"frolic-{seed}.latents.safetensors"
        while path.exists():
            number += 1
            path = folder / f"frolic-{seed}-{number}.latents.safetensors"
        tensors = {_NAME: self.latents.detach().float().cpu().contiguous()}
        if self.given.mask is not None and self.given.image is not None:
            tensors |= {"image": self.given.image.contiguous(), "mask": self.given.mask.contiguous()}
        safetensors.save(tensors, path, metadata={_RECORDS: json.dumps(self.records)})
        return path

    @classmethod
    def read(cls, path: Path) -> Kept:
        """What ``save`` wrote.

        Raises:
            CheckpointError: the file is not whole.
            FileError: it is another file.
        """
        tensors = safetensors.load(path)
        raw = safetensors.read_header(path).metadata.get(_RECORDS)
        try:
            records: Sequence[dict[str, Any]] = json.loads(raw or "")
            latents, given = tensors[_NAME], Given(tensors.get("image"), tensors.get("mask"))
            is_video = latents.ndim == 5 and latents.shape[2] > 1
            whole = latents.ndim in (4, 5) and 0 < len(latents) == len(records)
            whole = whole and all(_is_whole(record, is_video) for record in records)
            whole = whole and (given.image is None) == (given.mask is None)
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = False
        if not whole:
            raise FileError(f"{path} does not hold latents that frolic kept; give the file that the error named.")
        return cls(latents, tuple(records), given)


def _is_whole(record: dict[str, Any], is_video: bool) -> bool:
    """Whether ``record`` says what decoding needs; what it lacks raises KeyError."""
    wanted, model = record["request"], record["model"]
    frames, fps = wanted.get("frames", 1), wanted.get("fps")
    size = {"width": wanted["width"], "height": wanted["height"]}
    Request.of(wanted["prompt"], seed=wanted["seed"], frames=frames, fps=fps, **size)
    texts = (wanted["prompt"], record["dtype"], model["name"], model["hash"])
    numbers = (wanted["seed"], wanted["width"], wanted["height"])
    fits = (frames > 1) == is_video and (fps is not None or not is_video)
    return fits and all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)
