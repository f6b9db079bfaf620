"""The sizes that models were trained with, and the way back to the size that was asked for, against diffusers."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from frolic.bins import BASES, bins, nearest_bin
from frolic.pipeline.resize import fit
from frolic.types import PixelSize

pytest.importorskip("diffusers")

HOMES = {512: "pixart_alpha.pipeline_pixart_alpha", 1024: "pixart_alpha.pipeline_pixart_alpha",
         2048: "pixart_alpha.pipeline_pixart_sigma", 4096: "sana.pipeline_sana"}  # fmt: skip


def table(base: int) -> dict[str, list[float]]:
    return getattr(import_module(f"diffusers.pipelines.{HOMES[base]}"), f"ASPECT_RATIO_{base}_BIN")


@pytest.mark.parametrize("base", BASES)
def test_bins(base: int) -> None:
    theirs = {float(ratio): (int(height), int(width)) for ratio, (height, width) in table(base).items()}
    assert list(bins(base).items()) == list(theirs.items())


@pytest.mark.parametrize("base", BASES)
def test_nearest_bin(base: int) -> None:
    processor = import_module("diffusers.image_processor").PixArtImageProcessor
    sides = [64, 100, 512, 600, 720, 768, 1000, 1024, 1080, 1920, 2048, 3000, 4096, 8192]
    for height in sides:
        for width in sides:
            expected = processor.classify_height_width_bin(height, width, table(base))
            assert nearest_bin(height, width, base) == expected


@pytest.mark.parametrize(
    ("drawn", "asked"), [((24, 42), (20, 40)), ((42, 24), (60, 30)), ((32, 32), (32, 32)), ((13, 19), (40, 41))]
)
def test_fit(drawn: tuple[int, int], asked: tuple[int, int]) -> None:
    processor = import_module("diffusers.image_processor").PixArtImageProcessor
    pixels = torch.randn(2, 3, *drawn, generator=torch.Generator().manual_seed(2))
    ours = fit(pixels, PixelSize(*asked))
    assert ours.shape[2:] == asked
    assert torch.equal(ours, processor.resize_and_crop_tensor(pixels, asked[1], asked[0]))


def test_fit_where_rounding_leaves_diffusers_a_pixel_short() -> None:
    """11 * (15 / 11) is a little less than 15."""
    processor = import_module("diffusers.image_processor").PixArtImageProcessor
    pixels = torch.rand(1, 3, 11, 11)
    assert processor.resize_and_crop_tensor(pixels, 15, 15).shape[2:] != (15, 15)
    assert fit(pixels, PixelSize(15, 15)).shape[2:] == (15, 15)
