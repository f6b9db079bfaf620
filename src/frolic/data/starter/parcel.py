"""A pack folder as one small file and back, for a machine that has no network to make it on.

S side of a sprite.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file

from frolic.data.starter.pack import SPRITE_FILE, check_replaceable, read, whole_pack
from frolic.data.starter.packages import sha256
from frolic.errors import FileError, FrolicError
from frolic.io.files import whole_file

STEP = 4
"""Colours are rounded to multiples of this: at most 2 of 255 off (50 dB), and two thirds the bytes of exact ones."""

_PLAIN = ("pack.json", "concepts.json")


def wrap(pack: Path, parcel: Path, step: int = STEP) -> None:
    """Write the folder ``pack`` to the file ``parcel``: every sprite as a lossless WebP picture, its colours rounded to
    multiples of ``step`` (1 keeps them) and its alpha kept.

    Raises:
        FileError: there is no whole pack, or the parcel cannot be written. ResourceError: the disk is full.
    """
    sprites, _ = read(pack)
    # A zip's entries cost some hundred bytes each, a tar's five times as much; pictures do not get smaller in either.
    with whole_file(parcel, force=True) as file, zipfile.ZipFile(file, "w") as archive:
        for name in _PLAIN:
            archive.write(pack / name, name, zipfile.ZIP_DEFLATED)
        for row, rgba in enumerate(sprites.numpy()):
            colour = np.minimum(np.round(rgba[:3] / step) * step, 255).astype(np.uint8)
            picture = Image.fromarray(np.concatenate([colour, rgba[3:]]).transpose(1, 2, 0))
            encoded = io.BytesIO()
            # Method 4 takes many times as long for 4 % less. Without `exact`, hidden colours would change.
            picture.save(encoded, "WEBP", lossless=True, method=2, exact=True)
            archive.writestr(f"{row:05d}.webp", encoded.getvalue())


def unwrap(parcel: Path, pack: Path) -> None:
    """Undo of ``wrap``. The sprites' checksum in ``pack.json`` becomes that of what is written.

    Raises:
        FileError: ``parcel`` is not one, or ``pack`` cannot be written or holds something else.
    """
    check_replaceable(pack)
    try:
        with whole_pack(pack) as draft:
            with zipfile.ZipFile(parcel) as archive:
                plain = {name: archive.read(name) for name in _PLAIN}
                about = json.loads(plain["pack.json"])
                rgba = torch.empty(about["pictures"], 4, about["side"], about["side"], dtype=torch.uint8)
                for row in range(len(rgba)):
                    with Image.open(io.BytesIO(archive.read(f"{row:05d}.webp")), formats=["WEBP"]) as picture:
                        rgba[row] = torch.from_numpy(np.asarray(picture.convert("RGBA")).transpose(2, 0, 1).copy())
            save_file({"rgba": rgba}, draft / SPRITE_FILE)
            about["files"][SPRITE_FILE] = sha256(draft / SPRITE_FILE)
            (draft / "concepts.json").write_bytes(plain["concepts.json"])
            (draft / "pack.json").write_text(json.dumps(about, indent=1), "utf-8")
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, FrolicError):
            raise
        raise FileError(f"{parcel} could not be unpacked to {pack}: {error}. Wrap the training set again.") from error
