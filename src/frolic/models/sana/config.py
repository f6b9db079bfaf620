"""The dimensions of a SANA transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frolic.errors import CheckpointError
from frolic.models.configs import FLAG, LAYERS, POSITIVE, SIZE, TEXT, Kind, read_config, whole

QK_NORM = "rms_norm_across_heads"

_KNOWN: dict[str, Kind] = {
    **dict.fromkeys(
        (
            *("in_channels", "num_attention_heads", "attention_head_dim", "num_cross_attention_heads"),
            *("cross_attention_head_dim", "cross_attention_dim", "caption_channels", "sample_size"),
        ),
        SIZE,
    ),
    "out_channels": SIZE.or_none(),
    "num_layers": LAYERS,
    "patch_size": whole(1, 64),
    "mlp_ratio": POSITIVE,
    "norm_eps": POSITIVE,
    "timestep_scale": POSITIVE,
    "attention_bias": FLAG,
    "qk_norm": TEXT.or_none(),
}
_FIXED: dict[str, tuple[Any, ...]] = {
    "norm_elementwise_affine": (False,),
    "interpolation_scale": (None,),
    "guidance_embeds": (False,),
}
_IGNORED = {"dropout", "guidance_embeds_scale"}


@dataclass(frozen=True)
class SanaConfig:
    """Defaults are SANA 1.6B's. ``heads * head_dim`` is the width, and so is ``cross_heads * cross_head_dim``."""

    in_channels: int = 32
    out_channels: int = 32
    heads: int = 70
    head_dim: int = 32
    layers: int = 20
    cross_heads: int = 20
    cross_head_dim: int = 112
    caption_channels: int = 2304
    mlp_ratio: float = 2.5
    attention_bias: bool = False
    sample_size: int = 32
    patch_size: int = 1
    norm_eps: float = 1e-6
    qk_norm: bool = False
    timestep_scale: float = 1.0

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def hidden(self) -> int:
        """Width of one half of the gated feed-forward."""
        return int(self.mlp_ratio * self.width)

    def __post_init__(self) -> None:
        if not 1 <= self.mlp_ratio * self.width < 2**24:
            raise CheckpointError(
                f"The transformer config has {self.width} channels and mlp_ratio {self.mlp_ratio}; no feed-forward has "
                "that width."
            )
        if self.cross_heads * self.cross_head_dim != self.width:
            raise CheckpointError(
                f"The transformer config has {self.heads} x {self.head_dim} = {self.width} channels but "
                f"{self.cross_heads} x {self.cross_head_dim} in cross attention; make the two products equal."
            )

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> SanaConfig:
        """From diffusers' ``SanaTransformer2DModel`` config.

        Raises:
            CheckpointError: listing every entry that is unknown or cannot be honoured.
        """
        got = read_config(raw, what="SANA transformer", known=_KNOWN, fixed=_FIXED, ignored=_IGNORED)
        base = cls()
        in_channels = got.get("in_channels", base.in_channels)
        config = cls(
            in_channels=in_channels,
            out_channels=got.get("out_channels", base.out_channels) or in_channels,
            heads=got.get("num_attention_heads", base.heads),
            head_dim=got.get("attention_head_dim", base.head_dim),
            layers=got.get("num_layers", base.layers),
            cross_heads=got.get("num_cross_attention_heads", base.cross_heads),
            cross_head_dim=got.get("cross_attention_head_dim", base.cross_head_dim),
            caption_channels=got.get("caption_channels", base.caption_channels),
            mlp_ratio=got.get("mlp_ratio", base.mlp_ratio),
            attention_bias=got.get("attention_bias", base.attention_bias),
            sample_size=got.get("sample_size", base.sample_size),
            patch_size=got.get("patch_size", base.patch_size),
            norm_eps=got.get("norm_eps", base.norm_eps),
            qk_norm=got.get("qk_norm") is not None,
            timestep_scale=got.get("timestep_scale", base.timestep_scale),
        )
        if got.get("qk_norm") not in (None, QK_NORM):
            raise CheckpointError(f"The transformer's qk_norm {got['qk_norm']!r} is not known; supported: {QK_NORM!r}.")
        if got.get("cross_attention_dim", config.width) != config.width:
            raise CheckpointError(
                f"The transformer's cross_attention_dim is {got['cross_attention_dim']}; it must be its width, "
                f"{config.width}, because that is what the caption is projected to."
            )
        return config

    def to_json(self) -> dict[str, Any]:
        """As diffusers writes it."""
        return {
            "_class_name": "SanaTransformer2DModel",
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "num_layers": self.layers,
            "num_cross_attention_heads": self.cross_heads,
            "cross_attention_head_dim": self.cross_head_dim,
            "cross_attention_dim": self.width,
            "caption_channels": self.caption_channels,
            "mlp_ratio": self.mlp_ratio,
            "attention_bias": self.attention_bias,
            "sample_size": self.sample_size,
            "patch_size": self.patch_size,
            "norm_elementwise_affine": False,
            "norm_eps": self.norm_eps,
            "qk_norm": QK_NORM if self.qk_norm else None,
            "timestep_scale": self.timestep_scale,
        }
