"""The dimensions of a deep-compression autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from frolic.models.configs import FLAG, POSITIVE, SIZE, TEXT, Kind, read_config, refuse, whole

RES, VIT = "ResBlock", "EfficientViTBlock"

_KNOWN: dict[str, Kind] = {
    **{f"{side}_block_types": TEXT.or_list() for side in ("encoder", "decoder")},
    **{f"{side}_block_out_channels": SIZE.list() for side in ("encoder", "decoder")},
    **{f"{side}_layers_per_block": whole(0, 1024).list() for side in ("encoder", "decoder")},
    **{f"{side}_qkv_multiscales": whole(1, 63).list().list() for side in ("encoder", "decoder")},
    "in_channels": SIZE,
    "latent_channels": SIZE,
    "attention_head_dim": SIZE,
    "upsample_block_type": TEXT,
    "downsample_block_type": TEXT,
    "encoder_out_shortcut": FLAG,
    "decoder_in_shortcut": FLAG,
    "decoder_conv_act_fn": TEXT,
    "decoder_norm_types": TEXT.or_list(),
    "decoder_act_fns": TEXT.or_list(),
    "scaling_factor": POSITIVE,
}
_MAX_STAGES = 16


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

    def decode_bytes(
        self, height: int, width: int, itemsize: int, budget: int, device: str, tiling: str = "auto"
    ) -> tuple[int, bool]:
        """What decoding ``height`` x ``width`` latents holds at once beside the weights, and whether it is done in
        strips, where ``budget`` bytes are free."""
        from frolic.models.dcae import sizes  # it imports this

        pixels = (height * self.stride, width * self.stride)
        tile = sizes.tile_for(self, *pixels, itemsize, budget, device, tiling)
        return sizes.decode_bytes(self, *pixels, itemsize, tile, device), tile is not None

    def decode_flops(self, height: int, width: int) -> float:
        """Floating-point operations of decoding ``height`` x ``width`` latents."""
        from frolic.models.dcae import sizes

        return sizes.decode_flops(self, height * self.stride, width * self.stride)

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
            if not 1 <= len(widths) <= _MAX_STAGES:
                problems.append(f"{side}: there are {len(widths)} stages, the model can have 1 to {_MAX_STAGES}")
                return default
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
            return min(values, default=default)

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
        refuse("DC-AE", problems or config._contradictions())
        return config

    def _contradictions(self) -> list[str]:
        """What no module can be built from, though every entry is in order."""
        problems = []
        for side, stages, shortcut in (
            ("encoder", self.encoder, self.encoder_out_shortcut),
            ("decoder", self.decoder, self.decoder_in_shortcut),
        ):
            # Only the first stage can be left to the convolution that stands before it.
            if any(not stage.layers for stage in stages[1:]) or (len(stages) == 1 and not stages[0].layers):
                problems.append(f"{side}: a stage after the first one has no layers")
            if any(stage.kind == VIT and stage.width < self.head_dim for stage in stages):
                problems.append(f"{side}: a stage with attention is narrower than one head of {self.head_dim} channels")
            if any(kernel % 2 == 0 for stage in stages for kernel in stage.kernels):
                problems.append(f"{side}: a kernel size is even")
            if shortcut and (last := stages[-1].width) % self.latent_channels:
                problems.append(f"{side}: {last} channels do not divide into {self.latent_channels} latents")
            problems += self._apart(side, stages)
        return problems

    def _apart(self, side: str, stages: Sequence[Stage]) -> list[str]:
        """Stages whose widths what changes the side between them cannot join: by a shortcut that averages groups of
        four times as many channels on the way in, or repeats channels to four times as many on the way out."""
        wrong = []
        for (first, stage), (_, after) in pairwise(enumerate(stages)):
            into = side == "encoder"
            joined = 4 * stage.width % after.width == 0
            folded = not (into and self.down == "pixel_unshuffle") or after.width % 4 == 0
            if stage.layers and not (joined and folded):
                wrong.append(f"{side}: stages {first} and {first + 1} of {stage.width} and {after.width} channels")
        return [f"{each} cannot be joined" for each in wrong]

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
