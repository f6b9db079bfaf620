"""The picture sizes that SANA was trained with: about base x base pixels, in a fixed set of aspect ratios.

They are the tables ``ASPECT_RATIO_{512,1024,2048,4096}_BIN`` that PixArt and SANA are published with. All four are one
table in units of a sixteenth of the base; the two smaller bases lack a few of its sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

BASES = (512, 1024, 2048, 4096)

_WIDTHS: Mapping[int, tuple[int, ...]] = MappingProxyType({
    8: (32, 31, 30, 29), 9: (28, 27, 26), 10: (25, 24), 11: (23, 22, 21), 12: (21, 20), 13: (19, 18), 14: (18, 17),
    15: (17, 16), 16: (16, 15), 17: (15, 14), 18: (14, 13), 19: (13,), 20: (12,), 21: (12,), 22: (11,), 23: (11,),
    24: (10,), 25: (10,), 26: (9,), 27: (9,), 28: (9,), 29: (8,), 30: (8,), 31: (8,), 32: (8,),
})  # fmt: skip
"""For each height, in units of base / 16."""

_LARGE_ONLY = frozenset({(8, 31), (8, 30), (26, 9), (28, 9), (29, 8), (30, 8), (31, 8)})
_LARGE = 2048


def bins(base: int) -> Mapping[float, tuple[int, int]]:
    """Height and width in pixels by their ratio, rounded to two digits as published, in rising order."""
    return MappingProxyType(dict(_bins(base)))


def nearest_bin(height: float, width: float, base: int) -> tuple[int, int]:
    """Height and width in pixels whose published ratio is nearest to ``height / width``, the lower of two as near."""
    sizes, ratio = bins(base), height / width
    return sizes[min(sizes, key=lambda published: abs(published - ratio))]


def _bins(base: int) -> Iterator[tuple[float, tuple[int, int]]]:
    assert base in BASES
    unit = base // 16
    for height, widths in _WIDTHS.items():
        for width in widths:
            if base >= _LARGE or (height, width) not in _LARGE_ONLY:
                yield round(height / width, 2), (height * unit, width * unit)
