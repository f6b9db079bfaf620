"""The published checkpoints of Wan: their dimensions, where they lie, and how they are sampled.

Sources: arXiv 2503.20314 and the authors' configs (``wan/configs``) of Wan2.1 and Wan2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from frolic.models.wan.config import WanConfig
from frolic.spec import Published

VARIANTS: Mapping[str, WanConfig] = MappingProxyType(
    {
        "1.3b": WanConfig(heads=12, hidden=8960, layers=30),
        "14b": WanConfig(),
        "i2v-a14b": WanConfig(in_channels=36),
        "ti2v-5b": WanConfig(heads=24, hidden=14336, layers=30, in_channels=48, out_channels=48),
    }
)
"""The architectures. Each expert of an A14B model is one of 14B."""

_WIDE = ("bfloat16", "float32")
_DTYPES = MappingProxyType({"transformer": _WIDE, "transformer_2": _WIDE, "vae": ("float32",), "text_encoder": _WIDE})
_480P = {"height": 480, "width": 832}
_720P = {"height": 704, "width": 1280}


def _model(name: str, architecture: str, repo: str, **defaults: Any) -> Published:
    return Published(
        name=name,
        repo=f"Wan-AI/{repo}-Diffusers",
        original="",
        config=VARIANTS[architecture],
        size=defaults["height"],
        dtypes=_DTYPES,
        defaults=MappingProxyType(defaults),
        license="Apache-2.0",
    )


PUBLISHED: tuple[Published, ...] = (
    _model("wan2.1-t2v-1.3b", "1.3b", "Wan2.1-T2V-1.3B", **_480P, steps=50, guidance_scale=5.0, shift=3.0, frames=81),
    _model("wan2.1-t2v-14b", "14b", "Wan2.1-T2V-14B", **_480P, steps=50, guidance_scale=5.0, shift=3.0, frames=81),
    _model(
        "wan2.2-t2v-a14b",
        "14b",
        "Wan2.2-T2V-A14B",
        **_480P,
        steps=40,
        guidance_scale=4.0,
        guidance_scale_2=3.0,
        boundary=0.875,
        shift=12.0,
        frames=81,
    ),
    _model(
        "wan2.2-i2v-a14b",
        "i2v-a14b",
        "Wan2.2-I2V-A14B",
        **_480P,
        steps=40,
        guidance_scale=3.5,
        guidance_scale_2=3.5,
        boundary=0.9,
        shift=5.0,
        frames=81,
    ),
    _model(
        "wan2.2-ti2v-5b",
        "ti2v-5b",
        "Wan2.2-TI2V-5B",
        **_720P,
        steps=50,
        guidance_scale=5.0,
        shift=5.0,
        frames=121,
        fps=24.0,
        clean_first=True,
    ),
)
