"""The dimensions of a deep-compression autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frolic.errors import CheckpointError
from frolic.models.configs import read_config

RES, VIT = "ResBlock", "EfficientViTBlock"

_SIDE_KEYS = ("block_types", "block_out_channels", "layers_per_block", "qkv_multiscales")
_KNOWN = {
    *(f"{side}_{key}" for side in ("encoder", "decoder") for key in _SIDE_KEYS),
    "in_channels", "latent_channels", "attention_head_dim", "upsample_block_type", "downsample_block_type",
    "encoder_out_shortcut", "decoder_in_shortcut", "decoder_conv_act_fn", "decoder_norm_types", "decoder_act_fns",
    "scaling_factor",
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One resolution: ``kind`` of block, how wide, how many, and the extra kernel sizes of its attention."""

    kind: str
    width: int
    layers: int
    kernels: tuple[int, ...] = ()


def _f32(layers: tuple[int, ...]) -> tuple[Stage, ...]:
    widths = (128, 256, 512, 512, 1024, 1024)
    return tuple(
        Stage(RES if i < 3 else VIT, width, layers[i], () if i < 3 else (5,)) for i, width in enumerate(widths)
    )


@dataclass(frozen=True)
class DCAEConfig:
    """Defaults are SANA's f32c32. Stages run from full resolution down; each next one has half the side."""

    in_channels: int = 3
    latent_channels: int = 32
    head_dim: int = 32
    encoder: tuple[Stage, ...] = field(default_factory=lambda: _f32((2, 2, 2, 3, 3, 3)))
    decoder: tuple[Stage, ...] = field(default_factory=lambda: _f32((3, 3, 3, 3, 3, 3)))
    down: str = "pixel_unshuffle"
    up: str = "pixel_shuffle"
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    decoder_out_activation: str = "relu"
    scaling_factor: float = 1.0

    @property
    def stride(self) -> int:
        """Pixels per latent along a side."""
        return int(2 ** (len(self.encoder) - 1))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> DCAEConfig:
        """From diffusers' ``AutoencoderDC`` config.

        Raises:
            CheckpointError: listing every entry that is unknown or cannot be honoured.
        """
        got = read_config(raw, what="DC-AE", known=_KNOWN, fixed={})
        base = cls()
        problems: list[str] = []

        def stages(side: str, default: tuple[Stage, ...]) -> tuple[Stage, ...]:
            widths = got.get(f"{side}_block_out_channels", [s.width for s in default])
            kinds = got.get(f"{side}_block_types", RES)
            kinds = [kinds] * len(widths) if isinstance(kinds, str) else kinds
            layers = got.get(f"{side}_layers_per_block", [s.layers for s in default])
            kernels = got.get(f"{side}_qkv_multiscales", [(), (), (), (5,), (5,), (5,)])
            if not len(widths) == len(kinds) == len(layers) == len(kernels):
                problems.append(f"{side}: the per-stage lists have different lengths")
                return default
            problems.extend(
                f"{side}: block type {k!r} is unknown, supported: {RES}, {VIT}" for k in {*kinds} - {RES, VIT}
            )
            return tuple(Stage(k, w, n, tuple(ks)) for k, w, n, ks in zip(kinds, widths, layers, kernels, strict=True))

        def only(key: str, allowed: tuple[str, ...], default: str) -> str:
            value = got.get(key, default)
            values = {value} if isinstance(value, str) else set(value)
            if not values <= set(allowed):
                problems.append(f"{key} is {value!r}, supported: {', '.join(allowed)}")
            return min(values)

        only("decoder_norm_types", ("rms_norm",), "rms_norm")
        only("decoder_act_fns", ("silu",), "silu")
        config = cls(
            in_channels=got.get("in_channels", base.in_channels),
            latent_channels=got.get("latent_channels", base.latent_channels),
            head_dim=got.get("attention_head_dim", base.head_dim),
            encoder=stages("encoder", base.encoder),
            decoder=stages("decoder", base.decoder),
            down=only("downsample_block_type", ("pixel_unshuffle", "conv", "Conv"), base.down),
            up=only("upsample_block_type", ("pixel_shuffle", "interpolate"), base.up),
            encoder_out_shortcut=got.get("encoder_out_shortcut", True),
            decoder_in_shortcut=got.get("decoder_in_shortcut", True),
            decoder_out_activation=only("decoder_conv_act_fn", ("relu", "silu"), base.decoder_out_activation),
            scaling_factor=got.get("scaling_factor", base.scaling_factor),
        )
        if len(config.encoder) != len(config.decoder):
            problems.append("encoder and decoder have different numbers of stages")
        if problems:
            raise CheckpointError("The DC-AE config cannot be used: " + "; ".join(problems))
        return config

    def to_json(self) -> dict[str, Any]:
        """As diffusers writes it."""
        sides: dict[str, Any] = {}
        for side, stages in (("encoder", self.encoder), ("decoder", self.decoder)):
            sides[f"{side}_block_types"] = [s.kind for s in stages]
            sides[f"{side}_block_out_channels"] = [s.width for s in stages]
            sides[f"{side}_layers_per_block"] = [s.layers for s in stages]
            sides[f"{side}_qkv_multiscales"] = [list(s.kernels) for s in stages]
        return {
            "_class_name": "AutoencoderDC",
            "in_channels": self.in_channels,
            "latent_channels": self.latent_channels,
            "attention_head_dim": self.head_dim,
            **sides,
            "upsample_block_type": self.up,
            "downsample_block_type": self.down,
            "decoder_norm_types": "rms_norm",
            "decoder_act_fns": "silu",
            "encoder_out_shortcut": self.encoder_out_shortcut,
            "decoder_in_shortcut": self.decoder_in_shortcut,
            "decoder_conv_act_fn": self.decoder_out_activation,
            "scaling_factor": self.scaling_factor,
        }
