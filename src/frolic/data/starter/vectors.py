"""Vector pictures to pixels: SVG texts as they come in the wild, and Iconify's collections of them.

H and W are a picture's height and width.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from PIL import Image

from frolic.errors import FileError, RequestError

_ROOT = re.compile(r"<svg\b[^>]*>", re.S)
_LENGTH = re.compile(r"\s*([0-9.]+)\s*(px|pt|mm|cm|in|pc)?\s*$")
# User units at 90 to the inch: what the drawing programs meant when they wrote these files.
_UNITS = {None: 1.0, "px": 1.0, "pt": 1.25, "pc": 15.0, "mm": 90 / 25.4, "cm": 900 / 25.4, "in": 90.0}


def render(svg: str, width: int) -> Image.Image:
    """An SVG's page as an RGBA picture [H, width] with straight alpha.

    Raises RequestError without the ``resvg_py`` package and FileError for a file that cannot be drawn.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise RequestError("Install frolic[train]: vector pictures are drawn by its package resvg_py.") from error
    try:
        png = resvg_py.svg_to_bytes(svg_string=framed(svg), width=width, skip_system_fonts=True)
    except ValueError as error:
        raise FileError(f"Leave this vector picture out: it cannot be drawn ({error}).") from error
    with Image.open(BytesIO(bytes(png))) as picture:
        return picture.convert("RGBA")


def framed(svg: str) -> str:
    """``svg`` with a view box, which the renderer needs in order to draw it at another size than its page's."""
    found = _ROOT.search(svg)
    if found is None or "viewBox" in found.group():
        return svg
    root = found.group()
    sides = [_units(root, name) for name in ("width", "height")]
    if None in sides:
        return svg
    bare = re.sub(r"""\s(?:width|height)\s*=\s*(?:"[^"]*"|'[^']*')""", "", root)
    box = f' viewBox="0 0 {sides[0]:g} {sides[1]:g}" width="{sides[0]:g}" height="{sides[1]:g}"'
    return svg[: found.start()] + bare[:4] + box + bare[4:] + svg[found.end() :]


def _units(root: str, name: str) -> float | None:
    value = re.search(rf"""\s{name}\s*=\s*["']([^"']*)["']""", root)
    length = _LENGTH.match(value.group(1)) if value else None
    return float(length.group(1)) * _UNITS[length.group(2)] if length else None


class Collection:
    """An Iconify collection: emoji pictures as SVG by emoji code (no presentation selectors)."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        icons = _json(archive, "package/icons.json")
        names = _json(archive, "package/chars.json")
        self._icons: Mapping[str, Mapping[str, Any]] = icons["icons"]
        self._aliases: Mapping[str, Mapping[str, Any]] = icons.get("aliases", {})
        self._side = int(icons.get("width", 16)), int(icons.get("height", 16))
        self._names = {
            "-".join(part for part in code.split("-") if part != "fe0f"): name for code, name in names.items()
        }

    def svg(self, code: str) -> str | None:
        """The picture of the emoji ``code``, or None when the collection has none."""
        name, mirrored = self._names.get(code, ""), False
        while name in self._aliases:
            mirrored ^= bool(self._aliases[name].get("hFlip"))
            name = self._aliases[name]["parent"]
        if name not in self._icons:
            return None
        icon = self._icons[name]
        width, height = int(icon.get("width", self._side[0])), int(icon.get("height", self._side[1]))
        body = icon["body"]
        if mirrored:
            body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{body}</svg>'
        )


def _json(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    assert file is not None, name
    return json.load(file)
