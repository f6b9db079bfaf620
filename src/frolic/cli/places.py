"""Where pictures and videos go, and how they are written there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from frolic.errors import FileError, RequestError
from frolic.io.files import check_writable
from frolic.io.media import save_png
from frolic.io.video import SUFFIXES, check_place, is_pattern, save_video
from frolic.request import Request

_SLUG = 40


def refuse(output: str | None, request: Request, pictures: range, force: bool) -> None:
    """Refuse an ``output`` that nothing could go to, before it is known what the model draws.

    Raises:
        RequestError, FileError: it could not.
    """
    if output is None or Path(output).is_dir():
        return
    name = Path(output).name.lower()
    if not (name.endswith((".png", *SUFFIXES)) or is_pattern(Path(output))):
        raise RequestError(
            f"{output} is not the name of a picture or a video; end it in .png, or a video in .mp4, .gif or .webp, or "
            "give an existing folder."
        )
    is_video = not name.endswith(".png") or is_pattern(Path(output))
    places(output, request, pictures, force, is_video=is_video, fps=request.fps)


def places(
    output: str | None,
    request: Request,
    pictures: range,
    force: bool,
    *,
    is_video: bool = False,
    fps: float | None = None,
    total: int = 0,
    start: int = 0,
) -> list[Path]:
    """Where every picture or video goes, refused now if it cannot go there. They are ``total`` in all (0: no others),
    of which the first is number ``start``.

    Raises:
        RequestError, FileError: it cannot.
    """
    folder = Path(output) if output is not None and Path(output).is_dir() else None
    found = []
    for index in pictures:
        if output is None or folder is not None:
            slug = re.sub(r"[\W_]+", "-", request.prompt_of(index).lower())[:_SLUG].strip("-") or "picture"
            suffix = ".mp4" if is_video else ".png"
            found.append((folder or Path()) / f"frolic-{slug}-{request.seeds[index]}{suffix}")
        else:
            one = (total or len(pictures)) == 1
            found.append(Path(output) if one else _numbered(Path(output), start + len(found) + 1))
    for place in found:
        here = _free(place) if output is None and not force else place
        if is_video:
            check_place(here, fps=fps, force=force)
        elif here.suffix.lower() != ".png" or is_pattern(here):
            raise RequestError(f"{here} is the name of a video, and this is a picture; end it in .png.")
        else:
            check_writable(here, force=force)
    return found


def folder_of(place: Path) -> Path:
    """The folder that is there before anything is written at ``place``."""
    return place.parent.parent if is_pattern(place) else place.parent


def preview_of(place: Path) -> Path:
    """Where previews of what will be at ``place`` are shown."""
    whole = place.parent if is_pattern(place) else place
    return whole.with_name(f"{whole.stem}.preview.png")


def write(save: Callable[[Path], object], place: Path, *, gives_way: bool) -> Path:
    """Write at ``place``. A name that frolic chose itself (``gives_way``) yields to one that appeared meanwhile."""
    while True:
        path = _free(place) if gives_way else place
        try:
            save(path)
            return path
        except FileError:
            if not (gives_way and path.exists()):
                raise


def save_drawn(drawn: Any, path: Path, record: Any, wanted: Any, *, force: bool) -> None:
    """Write a PIL picture, or the frames [T, H, W, 3] of a video; ``wanted`` is the request in its record."""
    if hasattr(drawn, "shape"):
        save_video(drawn, path, fps=wanted["fps"], record=record, force=force)
    else:
        save_png(drawn, path, record, force=force)


def _numbered(path: Path, number: int) -> Path:
    if is_pattern(path):
        return path.parent.with_name(f"{path.parent.name}-{number}") / path.name
    return path.with_stem(f"{path.stem}-{number}")


def _free(path: Path) -> Path:
    """``path``, or the first of ``-2``, ``-3`` ... that is not taken."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
