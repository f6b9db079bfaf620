"""The architectures that SANA is published in, as data. Each is the 1024-pixel one; ``at_size`` gives the others.

Sources: arXiv 2410.10629 (600M, 1.6B), 2501.18427 (1.5, and the 2.4B and 3.2B that 4.8B grew through), 2503.09641
(Sprint), and the authors' configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from frolic.models.sana.config import SanaConfig, SanaControlNetConfig

STRIDE = 32
"""Pixels a latent's side stands for."""

_POSITIONS = {2048: 1.0, 4096: 2.0}
_SMALL = SanaConfig(heads=36, layers=28, cross_heads=16, cross_head_dim=72)
_LARGE = SanaConfig()
_NORMED = replace(_LARGE, qk_norm=True)

VARIANTS: Mapping[str, SanaConfig] = MappingProxyType(
    {
        "600m": _SMALL,
        "1.6b": _LARGE,
        "1.5-1.6b": _NORMED,
        "1.5-2.4b": replace(_NORMED, layers=30),
        "1.5-3.2b": replace(_NORMED, layers=40),
        "1.5-4.8b": replace(_NORMED, layers=60),
        "sprint-0.6b": replace(_SMALL, qk_norm=True, guidance_embeds=True),
        "sprint-1.6b": replace(_NORMED, guidance_embeds=True),
        # The models that Sprint was distilled from: they take time from 0 to 1, and no guidance scale.
        "sprint-0.6b-teacher": replace(_SMALL, qk_norm=True, timestep_scale=0.001),
        "sprint-1.6b-teacher": replace(_NORMED, timestep_scale=0.001),
    }
)

CONTROLNETS: Mapping[str, SanaControlNetConfig] = MappingProxyType(
    {
        "600m": SanaControlNetConfig(heads=36, cross_heads=16, cross_head_dim=72),
        "1.6b": SanaControlNetConfig(),
    }
)


def at_size(config: SanaConfig, pixels: int) -> SanaConfig:
    """``config`` as trained for pictures of ``pixels`` a side. From 2048 on, it has positions."""
    return replace(config, sample_size=pixels // STRIDE, interpolation_scale=_POSITIONS.get(pixels))
