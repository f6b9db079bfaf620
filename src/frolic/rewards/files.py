"""Pictures and clips from files, as rewards see them.

T frames, H/W their sides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from frolic.errors import FileError
from frolic.io.files import existing_file
from frolic.io.media import CARRIERS, load_image, opaque, read_record, read_texts
from frolic.io.video import is_pattern, read_chosen
from frolic.rewards.preprocess import spread

if TYPE_CHECKING:
    import numpy as np

_MOVING = (".mp4", ".m4v", ".mov", ".gif", ".webp")
_FRAME = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Clip:
    """What a file holds: ``frames``, uint8 [T, H, W, 3], which are the whole or evenly spaced frames of ``total``; and
    the ``prompt`` of its own record, None where it has none."""

    frames: np.ndarray
    total: int
    prompt: str | None

    def tensor(self, device: torch.device | str = "cpu") -> Tensor:
        """[1, T, 3, H, W] in [0, 1]."""
        return torch.from_numpy(self.frames).to(device).permute(0, 3, 1, 2)[None].float() / 255


def read_clip(path: Path, most: int = 16) -> Clip:
    """The picture (PNG, JPEG, WebP) at ``path``, or of a clip (MP4, GIF, WebP, a folder of frames in the order of their
    names, or ``folder/%04d.png``) at most ``most`` frames: the first, the last, and evenly between.

    Raises:
        FileError: there is no such file, it cannot be read, or a folder holds no frames or not all of one size.
    """
    import numpy as np

    if path.is_dir():
        files = _frames_of(path)
        pictures = [np.array(opaque(load_image(file))) for file in (files[place] for place in spread(len(files), most))]
        if len({picture.shape for picture in pictures}) > 1:
            raise FileError(f"The pictures in {path} are not of one size, so they are no clip; give them one by one.")
        return Clip(np.stack(pictures), len(files), _prompt(files[0]))
    if is_pattern(path) or existing_file(path).suffix.lower() in _MOVING:
        frames, total = read_chosen(path, lambda count: spread(count, most))
        if total > 1:
            prompt = _prompt(path.with_name(path.name % 1) if is_pattern(path) else path)
            return Clip(frames, total, prompt)
        if is_pattern(path):
            path = path.with_name(path.name % 1)
    return Clip(np.array(opaque(load_image(path)))[None], 1, _prompt(path))


def _frames_of(folder: Path) -> list[Path]:
    found = [file for file in folder.iterdir() if file.suffix.lower() in _FRAME and file.is_file()]
    if not found:
        raise FileError(f"There are no frames in {folder}; it should hold PNG, JPEG or WebP files.")
    # 10.png comes after 9.png.
    return sorted(found, key=lambda file: [(len(part), part) for part in re.split(r"(\d+)", file.name)])


def _prompt(path: Path) -> str | None:
    """Of the file's record, which only what frolic wrote has."""
    if path.suffix.lower() not in CARRIERS:
        return None
    try:
        if "frolic" not in read_texts(path):
            return None
    except FileError:  # it holds pixels, or it would not have come this far, and is of a kind that has no record
        return None
    request = read_record(path).get("request")
    prompt = request.get("prompt") if isinstance(request, dict) else None
    return prompt if isinstance(prompt, str) else None
