"""Wan in bfloat16: what times do to a block is computed in float32, the rest in the model's dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import frolic
from tiny_wan import write_tiny_wan


@pytest.mark.parametrize("kind", ["t2v", "t2v-two", "i2v-two", "ti2v"])
def test_every_kind_draws_in_bfloat16_what_it_draws_in_float32(tmp_path: Path, kind: str) -> None:
    folder = write_tiny_wan(tmp_path / "wan", kind)
    given: dict[str, Any] = {"frames": 5, "seed": 1, "steps": 3, "width": 32, "height": 32}
    if kind in ("i2v-two", "ti2v"):
        given["image"] = Image.effect_noise((32, 32), 90).convert("RGB")

    def drawn(dtype: str) -> tuple[Any, np.ndarray]:
        pipe = frolic.load(folder, device="cpu", dtype=dtype)
        return pipe, np.asarray(pipe("two dogs", **given).videos[0], dtype=np.float32)

    pipe, small = drawn("bfloat16")
    _, exact = drawn("float32")
    weights = pipe.transformer.named_parameters()
    kept = {name.split(".")[0]: value.dtype for name, value in weights if "blocks" not in name}
    assert kept["time"] == kept["modulation"] == torch.float32 and kept["patch"] == torch.bfloat16
    assert exact.std() > 5 and np.abs(small - exact).mean() < 0.1 * exact.std()
