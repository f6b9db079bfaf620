"""Choices between two pictures or clips of one prompt: ``pairs.jsonl``, a JSON object a line.

    {"prompt": "a cat", "left": "pictures/a.png", "right": "pictures/b.png", "choice": "left"}

Paths are relative to the file's folder. ``choice`` is ``left``, ``right`` or ``equal``.

T frames, H/W sides in pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from frolic.errors import FileError
from frolic.io.files import existing_file, reason
from frolic.io.problems import Problems

if TYPE_CHECKING:
    import numpy as np

CHOICES = ("left", "right", "equal")
KEYS = ("prompt", "left", "right", "choice")
CLIPS = (".mp4", ".m4v", ".mov", ".gif", ".webp")
PICTURES = (".png", ".jpg", ".jpeg")
_MAX_LINE = 100_000
T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """``mark`` is a fingerprint of the prompt and of both files' contents, whichever of them stood left. ``winner`` is
    that of the chosen file, or ``equal``."""

    prompt: str
    left: Path
    right: Path
    choice: str
    mark: str
    winner: str

    def held_out(self, share: float) -> bool:
        """Whether the pair is among the ``share`` that is measured with, not trained with. It depends on the pair
        alone: a pair stays on its side when more are added."""
        return int(self.mark[:12], 16) < share * 16**12


def read_pairs(path: Path, look: Callable[[Path], T]) -> tuple[list[Pair], dict[Path, T]]:
    """All pairs of a file, and what ``look`` makes of each picture in them, each looked at once.

    ``look`` raises FileError where a file is not a picture or clip.

    Raises:
        FileError: the file cannot be read or holds no pair, or listing every line that cannot be used, by its number.
    """
    problems = Problems(f"{path} cannot be used; mend these lines or take them out")
    rows: list[tuple[int, dict[str, str]]] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        wrong, row = parse(line)
        for group, said in wrong:
            problems.add(group, f"line {number}{f': {said}' if said else ''}")
        if not wrong:
            rows.append((number, row))
    files: dict[Path, str | FileError] = {}
    seen: dict[Path, T] = {}
    pairs = []
    for number, row in rows:
        sides = [path.parent / row[side] for side in ("left", "right")]
        for file in sides:
            if file not in files:
                files[file] = _looked_at(file, look, seen)
            if isinstance(files[file], FileError):
                group = "not a picture or a clip" if file.is_file() else "missing files"
                problems.add(group, f"line {number}: {file.name}")
        marks = [found for found in map(files.get, sides) if isinstance(found, str)]
        if len(marks) == 2:
            mark = hashlib.sha256("\0".join([row["prompt"], *sorted(marks)]).encode()).hexdigest()
            winner = dict(zip(CHOICES, (*marks, "equal"), strict=True))[row["choice"]]
            pairs.append(Pair(row["prompt"], sides[0], sides[1], row["choice"], mark, winner))
    problems.raise_any(FileError)
    if not pairs:
        raise FileError(f"{path} holds no pair; make some with `frolic reward label`.")
    return pairs, seen


def parse(line: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """What is wrong with a line, as groups and what to say of each, and the row if nothing is."""
    try:
        row: Any = json.loads(line) if len(line) <= _MAX_LINE else None
    except (ValueError, RecursionError):
        return [("not JSON", "")], {}
    if not isinstance(row, Mapping):
        return [("not a JSON object", "")], {}
    wrong = [("unknown keys", repr(key)) for key in row if key not in KEYS]
    wrong += [("missing keys", repr(key)) for key in KEYS if key not in row]
    for key in KEYS:
        value = row.get(key, "")
        if not isinstance(value, str):
            wrong.append(("values that are no text", repr(key)))
        elif key == "choice" and key in row and value not in CHOICES:
            wrong.append((f"a choice that is none of {', '.join(CHOICES)}", repr(value)))
        elif key in ("left", "right") and key in row and (not value or Path(value).is_absolute() or "\0" in value):
            wrong.append(("paths that are not relative to the file", repr(key)))
    same = not wrong and row["left"] == row["right"]
    return wrong or ([("a picture beside itself", "")] if same else []), dict(row)


def mark_of(pairs: list[Pair]) -> str:
    """A fingerprint of pairs and choices, in any order."""
    said = sorted(f"{pair.mark} {pair.winner}" for pair in pairs)
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def pixels(path: Path) -> np.ndarray:
    """The frames, uint8 [T, H, W, 3], of a clip or (T = 1) of a picture.

    Raises:
        FileError: it is neither.
    """
    import numpy as np

    from frolic.io.media import load_image, opaque
    from frolic.io.video import read_frames

    if path.suffix.lower() in CLIPS and len(frames := read_frames(path)) > 1:
        return frames
    # A still WebP or GIF as any other picture, turned as it says.
    return np.asarray(opaque(load_image(path)))[None]


def _lines(path: Path) -> list[str]:
    try:
        return existing_file(path).read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8 text; write it so.") from error
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} cannot be read ({reason(error)}); check its permissions.") from error


def _looked_at(file: Path, look: Callable[[Path], T], seen: dict[Path, T]) -> str | FileError:
    """A fingerprint of the file, or what is wrong with it."""
    try:
        seen[file] = look(file)
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except FileError as error:
        return error
    except OSError as error:
        return FileError(f"{file} cannot be read ({reason(error)}).")
