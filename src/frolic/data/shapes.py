"""Picture sizes of about one area, so that a folder of all shapes trains in few batches of equal ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from frolic.bins import bins
from frolic.errors import ConfigError
from frolic.io.media import load_image

MOST_LONG = 2.0
"""The longest side over the shortest."""


def sizes(side: int, stride: int, bin_base: int = 0) -> list[tuple[int, int]]:
    """Heights and widths, multiples of ``stride``, whose area is about ``side`` squared: those of the table that a
    model was trained with, where it has one for this side.

    Raises ConfigError: there are none.
    """
    if bin_base == side:
        found = [size for size in bins(side).values() if max(size) <= MOST_LONG * min(size)]
        return [size for size in found if not (size[0] % stride or size[1] % stride)]
    made = set()
    for height in range(stride, int(side * MOST_LONG) + 1, stride):
        width = max(1, round(side * side / height / stride)) * stride
        for size in ((height, width), (width, height)):
            if max(size) <= MOST_LONG * min(size) and abs(size[0] * size[1] - side * side) <= 0.2 * side * side:
                made.add(size)
    if not made:
        raise ConfigError(f"No size of about {side} x {side} is a multiple of {stride}; give a larger data.side.")
    return sorted(made)


def nearest(shape: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of ``sizes`` the one from which a picture of ``shape`` (height, width) loses least to the cut."""
    ratio = shape[0] / shape[1]
    return max(sizes, key=lambda size: min(ratio / (size[0] / size[1]), (size[0] / size[1]) / ratio))


def by_size(paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """The numbers of the pictures that are brought to each size. Raises FileError as ``frolic.io.media``."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, path in enumerate(paths):
        image = load_image(path)
        groups.setdefault(nearest((image.height, image.width), sizes), []).append(number)
    return groups
