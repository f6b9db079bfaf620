"""A folder of pictures, each with its caption.

N pictures, B batch, P side of a picture, H/W its sides where they differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from frolic.errors import FileError
from frolic.io.media import eight_bits, load_image, opaque
from frolic.io.problems import Problems

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_CONTROL = ".control.png"
_TABLE = "metadata.jsonl"
_MAX_CAPTION = 100_000


@dataclass(frozen=True)
class Entry:
    """A picture, its caption, and the control picture that was given with it, if one was."""

    picture: Path
    caption: str
    control: Path | None


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder, in the order of their names, cut to squares of ``side`` pixels about their centres."""

    entries: tuple[Entry, ...]
    side: int

    @classmethod
    def read(cls, folder: Path, side: int) -> PictureFolder:
        """Raises as ``read_entries``."""
        return cls(read_entries(folder), side)

    @property
    def groups(self) -> Tensor:
        """[N]: each picture is of its own kind."""
        return torch.arange(len(self.entries))

    @property
    def captions(self) -> tuple[tuple[str, ...], ...]:
        """Of each picture."""
        return tuple((entry.caption,) for entry in self.entries)

    @cached_property
    def mark(self) -> str:
        """A fingerprint of all files. Raises as ``mark_of``."""
        return mark_of(self.entries)

    def pixels(self, rows_B: Tensor) -> Tensor:
        """[B, 3, P, P] in [-1, 1].

        Raises:
            FileError: a picture cannot be read.
        """
        return torch.stack([fitted(self.entries[row].picture, self.side, self.side) for row in rows_B.tolist()])

    def controls(self, rows_B: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """[B, 3, P, P] in [-1, 1]: the control pictures that were given, or what ``make`` makes of the pictures.

        Raises:
            FileError: a picture cannot be read.
        """
        made = []
        for row in rows_B.tolist():
            entry = self.entries[row]
            given = fitted(entry.control or entry.picture, self.side, self.side)[None]
            made.append(given if entry.control else make(given))
        return torch.cat(made)


def read_entries(folder: Path) -> tuple[Entry, ...]:
    """Pictures are ``NAME.png`` (or jpg, jpeg, webp) with their caption in ``NAME.txt``, or in a line of
    ``metadata.jsonl``: ``{"file_name": "NAME.png", "text": "a caption"}``. ``NAME.control.png`` is a control picture.
    Names that begin with a dot are passed over; anything else is refused.

    Raises:
        FileError: the folder cannot be read or holds no picture, or listing files that do not belong together.
    """
    try:
        names = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise FileError(f"{folder} is no folder that can be read; give the folder of the pictures.") from error
    controls = {path.name.removesuffix(_CONTROL): path for path in names if path.name.endswith(_CONTROL)}
    texts = {path.stem: path for path in names if path.suffix == ".txt"}
    pictures: dict[str, Path] = {}
    problems = Problems(f"{folder} cannot be trained on; each picture needs a caption, NAME.png and NAME.txt")
    table = _table(folder / _TABLE, problems) if folder / _TABLE in names else {}
    for path in names:
        if path in (controls.get(path.name.removesuffix(_CONTROL)), texts.get(path.stem), folder / _TABLE):
            continue
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            problems.add("neither pictures nor captions", path.name)
        elif path.stem in pictures:
            problems.add("two pictures of one name", f"{pictures[path.stem].name} and {path.name}")
        else:
            pictures[path.stem] = path
    entries = []
    for name, path in pictures.items():
        caption = table.pop(path.name, None)
        if name in texts:
            if caption is not None:
                problems.add(f"captions both in a file and in {_TABLE}", path.name)
            caption = _caption(texts[name], problems)
        elif caption is None:
            problems.add("without a caption", path.name)
        if caption is not None:
            entries.append(Entry(path, caption, controls.get(name)))
    for name in table:
        problems.add(f"lines of {_TABLE} without a picture", name)
    for kind, given in (("captions", texts), ("control pictures", controls)):
        for name in given.keys() - pictures.keys():
            problems.add(f"{kind} without a picture", given[name].name)
    problems.raise_any(FileError)
    if not entries:
        raise FileError(f"There is no picture in {folder}; put NAME.png and its caption NAME.txt there.")
    return tuple(entries)


def mark_of(entries: Sequence[Entry]) -> str:
    """A fingerprint of all files of ``entries``.

    Raises:
        FileError: one cannot be read.
    """
    digest = hashlib.sha256()
    for entry in entries:
        for path in filter(None, (entry.picture, entry.control)):
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise FileError(f"{path} cannot be read; check its permissions.") from error
        digest.update(f"{entry.control is None} {entry.caption}\0".encode())
    return digest.hexdigest()


def _table(path: Path, problems: Problems) -> dict[str, str]:
    """Captions by the pictures' file names."""
    found: dict[str, str] = {}
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # JSON strings may hold what else ends a line
    except (OSError, UnicodeDecodeError):
        problems.add("captions that are not UTF-8 text", path.name)
        return found
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["file_name"], row["text"].strip()
            if not isinstance(name, str):
                raise TypeError(name)
        except (ValueError, KeyError, TypeError, AttributeError):
            problems.add(f'lines of {_TABLE} that are not {{"file_name": ..., "text": ...}}', f"line {number}")
            continue
        if name in found:
            problems.add(f"pictures with two lines in {_TABLE}", str(name))
        elif not text or len(text) > _MAX_CAPTION:
            problems.add("empty captions" if not text else f"captions of more than {_MAX_CAPTION:,} bytes", str(name))
        else:
            found[str(name)] = text
    return found


def _caption(path: Path, problems: Problems) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CAPTION + 1)
        if len(data) > _MAX_CAPTION:
            problems.add(f"captions of more than {_MAX_CAPTION:,} bytes", path.name)
            return None
        text = data.decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        problems.add("captions that are not UTF-8 text", path.name)
        return None
    if not text:
        problems.add("empty captions", path.name)
    return text or None


def fitted(path: Path, height: int, width: int) -> Tensor:
    """[3, H, W] in [-1, 1]: cut about its middle to that shape, and resized; what is see-through lies over white."""
    import numpy as np
    from PIL import Image as images
    from PIL import ImageOps

    cut = ImageOps.fit(opaque(load_image(path)), (width, height), images.Resampling.LANCZOS)
    return torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 127.5 - 1


def whole(path: Path, most: int) -> Tensor:
    """[4, H, W] in [0, 1]: all of it, its transparency too, with sides of ``most`` pixels at most."""
    import numpy as np

    image: Image = eight_bits(load_image(path)).convert("RGBA")
    image.thumbnail((most, most))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
