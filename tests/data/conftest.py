from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import pytest
from PIL import Image, ImageDraw


def _disc(colour: str, encoding: str) -> bytes:
    picture = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((40, 40, 216, 216), fill=colour)
    buffer = BytesIO()
    picture.save(buffer, encoding, lossless=True)
    return buffer.getvalue()


@pytest.fixture
def webp() -> Callable[[str], bytes]:
    """A disc of the given colour on a transparent ground, as a 256-pixel WebP file's bytes."""
    return lambda colour: _disc(colour, "WEBP")


@pytest.fixture
def png() -> Callable[[str], bytes]:
    """The same disc as a PNG file's bytes."""
    return lambda colour: _disc(colour, "PNG")
