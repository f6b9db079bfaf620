"""Contact sheets: pictures or strips of film in a grid, each with its prompt below."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from frolic.errors import RequestError
from frolic.io.files import check_writable, write_bytes

_FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG", "optimize": True},
    ".webp": {"format": "WEBP", "quality": 80, "method": 6},
}
PAPER, INK = (255, 255, 255), (60, 60, 67)
MARGIN, LINES = 6, 2
CELLS = 64


def contact_sheet(
    pictures: Sequence[Image.Image], labels: Sequence[str], columns: int = 8, cell: int = 128, font_size: int = 12
) -> Image.Image:
    """``pictures`` in reading order, scaled to ``cell`` pixels a side, with up to two lines of label each."""
    assert pictures and len(pictures) == len(labels)
    columns = min(columns, len(pictures))
    font = ImageFont.load_default(font_size)
    line = font_size + 3
    width, height = cell + MARGIN, cell + MARGIN + LINES * line
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        left, top = MARGIN + index % columns * width, MARGIN + index // columns * height
        resized = picture.convert("RGB").resize((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(resized, (left, top))
        for number, text in enumerate(_wrap(label, draw, font, cell)):
            spare = cell - draw.textlength(text, font=font)
            draw.text((left + spare / 2, top + cell + 1 + number * line), text, fill=INK, font=font)
    return sheet


def strip_sheet(strips: Sequence[np.ndarray], labels: Sequence[str], columns: int = 2) -> Image.Image:
    """Film strips (bytes [H, W, 3]) in reading order, each with one line of label below."""
    assert len(strips) and len(strips) == len(labels)
    columns = min(columns, len(strips))
    line, gap = 15, 8
    wide, high = max(strip.shape[1] for strip in strips), max(strip.shape[0] for strip in strips)
    rows = -(-len(strips) // columns)
    sheet = Image.new("RGB", (columns * (wide + gap) + gap, rows * (high + line + gap) + gap), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, (strip, label) in enumerate(zip(strips, labels, strict=True)):
        left, top = gap + index % columns * (wide + gap), gap + index // columns * (high + line + gap)
        sheet.paste(Image.fromarray(strip), (left, top))
        draw.text((left, top + high + 1), _wrap(label, draw, font, wide)[0], fill=INK, font=font)
    return sheet


def check_sheet(path: Path, *, force: bool) -> None:
    """Raises:
    RequestError: ``path`` ends in neither ``.png`` nor ``.webp``. FileError: nothing can be written there.
    """
    if path.suffix.lower() not in _FORMATS:
        raise RequestError(f"{path} is not the name of a picture; end it in .png, or .webp, a fifth of the size.")
    check_writable(path, force=force)


def save_sheet(sheet: Image.Image, path: Path, *, force: bool) -> None:
    """Write ``sheet`` to ``path``, whole or not at all. Raises as ``check_sheet``."""
    check_sheet(path, force=force)
    buffer = io.BytesIO()
    sheet.save(buffer, **_FORMATS[path.suffix.lower()])
    write_bytes(path, buffer.getvalue(), force=force)


def _wrap(
    label: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int
) -> list[str]:
    """``label`` in at most ``LINES`` lines of ``room`` pixels; what does not fit ends in an ellipsis."""
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font=font) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > LINES:
        lines[LINES - 1] += "…"
    return lines[:LINES]
