"""The dimensions of a Wan autoencoder: Wan2.1's, and Wan2.2's, whose stages have shortcuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from frolic.models.configs import FLAG, SIZE, Kind, read_config, refuse, whole
from frolic.models.wan_vae import sizes

_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_DEVIATION = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
_NUMBER = Kind("a number", lambda value: type(value) in (int, float) and abs(value) < 1e18)
_FIELDS: dict[str, tuple[str, Kind]] = {
    "base_dim": ("width", SIZE),
    "decoder_base_dim": ("decoder_width", SIZE.or_none()),
    "z_dim": ("latent_channels", SIZE),
    "dim_mult": ("multipliers", whole(1, 64).list()),
    "num_res_blocks": ("layers", whole(1, 64)),
    "temperal_downsample": ("in_time", FLAG.list()),
    "latents_mean": ("mean", _NUMBER.list()),
    "latents_std": ("deviation", _NUMBER.list()),
    "is_residual": ("shortcuts", FLAG),
    "patch_size": ("patch", whole(1, 16).or_none()),
}
"""diffusers' name of an entry: our name, and what it may be."""
_IGNORED = {"dropout", "clip_output"}


@dataclass(frozen=True)
class WanVAEConfig:
    """Defaults are Wan2.1's. Stage k of the encoder is ``multipliers[k] * width`` wide and has ``layers`` residual
    blocks (a decoder's one more); all but the last halve the sides, and those of ``in_time`` the frames too.
    ``shortcuts``: each stage is added to its resampled input. ``patch``: squares of pixels that become channels first.
    Latents have ``mean`` and ``deviation`` by channel.

    Raises:
        CheckpointError: listing all that does not fit together.
    """

    width: int = 96
    decoder_width: int | None = None
    latent_channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    layers: int = 2
    in_time: tuple[bool, ...] = (False, True, True)
    mean: tuple[float, ...] = _MEAN
    deviation: tuple[float, ...] = _DEVIATION
    shortcuts: bool = False
    patch: int | None = None

    in_channels = 3  # colours, as a user sees them

    def __post_init__(self) -> None:
        problems = []
        if not 2 <= len(self.multipliers) <= 8:
            problems.append(f"dim_mult has {len(self.multipliers)} stages, it must have 2 to 8")
        if len(self.in_time) != len(self.multipliers) - 1:
            problems.append(
                f"temperal_downsample has {len(self.in_time)} entries, it must have one for all but one stage"
            )
        for name, values in (("latents_mean", self.mean), ("latents_std", self.deviation)):
            if len(values) != self.latent_channels:
                problems.append(f"{name} has {len(values)} entries for {self.latent_channels} channels")
        if any(value <= 0 for value in self.deviation):
            problems.append("latents_std has an entry that is not above 0")
        if not self.shortcuts and any(width % 2 for width in self.decoder_stages[:-1]):
            problems.append("base_dim makes a stage of an odd width, which cannot be halved")
        if self.shortcuts and not problems:
            problems += self._unequal()
        refuse("Wan autoencoder", problems)

    def _unequal(self) -> list[str]:
        """Stages whose shortcut cannot group, or copy, the channels it is given."""
        gained = [4 * (2 if time else 1) for time in self.in_time]
        down = zip((self.stages[0], *self.stages), self.stages, (*gained, 1), strict=False)
        up = zip((self.decoder_stages[0], *self.decoder_stages), self.decoder_stages, gained[::-1], strict=False)
        wrong = [f"{before} to {after} in the encoder" for before, after, gain in down if before * gain % after]
        wrong += [f"{before} to {after} in the decoder" for before, after, gain in up if after * gain % before]
        return [f"dim_mult makes widths that shortcuts cannot join: {', '.join(wrong)}"] if wrong else []

    @property
    def stages(self) -> tuple[int, ...]:
        """Widths of the encoder's stages."""
        return tuple(self.width * each for each in self.multipliers)

    @property
    def decoder_stages(self) -> tuple[int, ...]:
        """Widths of the decoder's stages, from the latents on."""
        return tuple((self.decoder_width or self.width) * each for each in reversed(self.multipliers))

    @property
    def stride(self) -> int:
        """Pixels that a latent's side stands for."""
        return int((self.patch or 1) * 2 ** (len(self.multipliers) - 1))

    @property
    def frame_stride(self) -> int:
        """Frames that a latent stands for, but for the first, which stands for one."""
        return int(2 ** sum(self.in_time))

    def decode_bytes(
        self, height: int, width: int, itemsize: int, budget: int, device: str, tiling: str = "auto"
    ) -> tuple[int, bool]:
        """What decoding ``height`` x ``width`` latents holds at once beside the weights, however many frames there are,
        and whether it is done in tiles, where ``budget`` bytes are free."""
        pixels = (height * self.stride, width * self.stride)
        tile = sizes.tile_for(self, *pixels, itemsize, budget, tiling)
        high, wide = (min(side, tile or side) for side in pixels)
        return sizes.decode_bytes(self, high, wide, itemsize), tile is not None

    def decode_flops(self, height: int, width: int) -> float:
        """Floating-point operations of decoding one frame of ``height`` x ``width`` latents."""
        return sizes.decode_flops(self, height * self.stride, width * self.stride)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """From the config of diffusers' ``AutoencoderKLWan``.

        Raises:
            CheckpointError: listing every entry that is unknown or cannot be honoured.
        """
        known = {name: kind for name, (_, kind) in _FIELDS.items()}
        known |= dict.fromkeys(("in_channels", "out_channels", "scale_factor_spatial", "scale_factor_temporal"), SIZE)
        got = read_config(raw, what="Wan autoencoder", known=known, fixed={"attn_scales": ([],)}, ignored=_IGNORED)
        values: dict[str, Any] = {}
        for name in got.keys() & _FIELDS.keys():
            values[_FIELDS[name][0]] = tuple(got[name]) if isinstance(got[name], (list, tuple)) else got[name]
        config = cls(**values)
        problems = []
        for name, right in (
            ("in_channels", 3 * (config.patch or 1) ** 2),
            ("out_channels", 3 * (config.patch or 1) ** 2),
            ("scale_factor_spatial", config.stride),
            ("scale_factor_temporal", config.frame_stride),
        ):
            if got.get(name, right) != right:
                problems.append(f"{name} is {got[name]}, which the other entries make {right}")
        refuse("Wan autoencoder", problems)
        return config

    def to_json(self) -> dict[str, Any]:
        """As diffusers writes it."""
        entries = {name: getattr(self, field) for name, (field, _) in _FIELDS.items()}
        colours = 3 * (self.patch or 1) ** 2
        return {
            "_class_name": "AutoencoderKLWan",
            **{name: list(value) if isinstance(value, tuple) else value for name, value in entries.items()},
            "attn_scales": [],
            "dropout": 0.0,
            "in_channels": colours,
            "out_channels": colours,
            "scale_factor_spatial": self.stride,
            "scale_factor_temporal": self.frame_stride,
        }


assert {field for field, _ in _FIELDS.values()} == {entry.name for entry in fields(WanVAEConfig)}
