"""Small videos, and what is in the files that frolic makes of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


def clip(frames: int = 9, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Something smooth that moves, uint8 [T, H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    moves = [
        np.sin((x + 3 * t)[..., None] / 9 + phase) + np.cos((y - t)[..., None] / 7 + 2 * phase) for t in range(frames)
    ]
    return (np.stack(moves) * 60 + 128).round().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In decibels; what is the same has 99."""
    error = float(np.mean((a.astype(float) - b.astype(float)) ** 2))
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def record(**request: Any) -> dict[str, Any]:
    """What ``Result.record`` gives of a video."""
    base = {
        "prompt": 'un été, çà: "et" là <frolic:record> & 一只熊猫 🐼',
        "negative_prompt": "",
        "seed": 2**63 - 1,
        "steps": 20,
        "guidance_scale": 4.1,
        "sampler": "unipc",
        "width": 64,
        "height": 48,
        "frames": 9,
        "fps": 16.0,
    }
    model = {"name": "wan", "version": "", "family": "wan", "hash": "0123456789abcdef"}
    return {"schema": 1, "version": "0.1.0", "model": model, "request": {**base, **request}, "shift": 3.0}


def timing(path: Path) -> tuple[Fraction, list[Fraction]]:
    """Seconds that an MP4 plays, and when each of its frames is shown."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None and stream.time_base is not None
        shown = [frame.pts * frame.time_base for frame in container.decode(stream)]
        return stream.duration * stream.time_base, shown
