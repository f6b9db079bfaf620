"""The dimensions of a SANA transformer and of its ControlNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, Self

from frolic.models.configs import FLAG, LAYERS, POSITIVE, SIZE, Kind, read_config, refuse, whole

QK_NORM = "rms_norm_across_heads"

_FIELDS: dict[str, tuple[str, Kind]] = {
    "in_channels": ("in_channels", SIZE),
    "out_channels": ("out_channels", SIZE.or_none()),
    "num_attention_heads": ("heads", SIZE),
    "attention_head_dim": ("head_dim", SIZE),
    "num_layers": ("layers", LAYERS),
    "num_cross_attention_heads": ("cross_heads", SIZE),
    "cross_attention_head_dim": ("cross_head_dim", SIZE),
    "caption_channels": ("caption_channels", SIZE),
    "mlp_ratio": ("mlp_ratio", POSITIVE),
    "attention_bias": ("attention_bias", FLAG),
    "sample_size": ("sample_size", SIZE),
    "patch_size": ("patch_size", whole(1, 64)),
    "norm_eps": ("norm_eps", POSITIVE),
    "interpolation_scale": ("interpolation_scale", POSITIVE.or_none()),
}
_TRANSFORMER_ONLY: dict[str, tuple[str, Kind]] = {
    "guidance_embeds": ("guidance_embeds", FLAG),
    "guidance_embeds_scale": ("guidance_embeds_scale", POSITIVE),
    "timestep_scale": ("timestep_scale", POSITIVE),
}
"""diffusers' name of an entry: our name, and what it may be."""

_FIXED: dict[str, tuple[Any, ...]] = {"norm_elementwise_affine": (False,), "qk_norm": (None, QK_NORM)}
_IGNORED = {"dropout"}


@dataclass(frozen=True)
class SanaConfig:
    """Defaults are SANA 1.6B's. ``heads * head_dim`` is the width, and so is ``cross_heads * cross_head_dim``.

    ``interpolation_scale`` asks for sine-cosine positions (2K: 1, 4K: 2; see ``positions``). ``guidance_embeds``
    conditions on the guidance scale, times ``guidance_embeds_scale`` (Sprint). ``cross_attention_dim``, where given,
    is only checked: it must be the width, because that is what the caption is projected to.

    Raises:
        CheckpointError: listing all dimensions that do not fit together.
    """

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
    interpolation_scale: float | None = None
    guidance_embeds: bool = False
    guidance_embeds_scale: float = 0.1
    cross_attention_dim: InitVar[int | None] = None

    _what: ClassVar[str] = "SANA transformer"
    _class_name: ClassVar[str] = "SanaTransformer2DModel"
    _entries: ClassVar[Mapping[str, tuple[str, Kind]]] = _FIELDS | _TRANSFORMER_ONLY

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def hidden(self) -> int:
        """Width of one half of the gated feed-forward."""
        return int(self.mlp_ratio * self.width)

    def __post_init__(self, cross_attention_dim: int | None) -> None:
        problems = []
        width = f"{self.heads} x {self.head_dim} = {self.width} channels"
        if not 1 <= self.mlp_ratio * self.width < 2**24:
            problems.append(f"with {width} and mlp_ratio {self.mlp_ratio}, no feed-forward has that width")
        if self.cross_heads * self.cross_head_dim != self.width:
            problems.append(
                f"{width}, but {self.cross_heads} x {self.cross_head_dim} in cross attention; make the two products "
                "equal"
            )
        if cross_attention_dim not in (None, self.width):
            problems.append(f"cross_attention_dim is {cross_attention_dim}, it must be the width, {self.width}")
        if self.interpolation_scale is not None:
            if self.width % 4:
                problems.append(f"{width} do not divide into the four parts of a sine-cosine position")
            if self.patch_size > self.sample_size:
                problems.append(f"patch_size is {self.patch_size}, more than sample_size, {self.sample_size}")
        refuse(self._what, problems)

    def flops(self, tokens: int, text: int) -> float:
        """Operations of one forward of one sample: its products of matrices, which are 98 in 100 of them."""
        per_block = 2 * self.width * (6 * self.width + 3 * self.hidden) * tokens
        per_block += 4 * self.width**2 * text + 4 * self.width * text * tokens
        return float(self.layers * per_block)

    def working_bytes(self, tokens: int, itemsize: int) -> int:
        """What one forward of one sample holds at most besides the weights: the feed-forward's widest tensors, and the
        attention's in float32."""
        return int(tokens * (self.width * 8 * itemsize + max(4 * self.hidden * itemsize, 3 * self.width * 8)))

    def graph_bytes(self, tokens: int, itemsize: int) -> int:
        """What one block keeps of a forward of one sample for the way back, with adapters on its linears and nothing
        else to train: counted (``tests/train/test_reward_memory.py``), not derived."""
        return int(tokens * ((18.6 + 13.6 * itemsize) * self.width + 8.76 * itemsize * self.hidden))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """From the config of diffusers' class of this name.

        Raises:
            CheckpointError: listing every entry that is unknown or cannot be honoured.
        """
        known = {name: kind for name, (_, kind) in cls._entries.items()} | {"cross_attention_dim": SIZE}
        got = read_config(raw, what=cls._what, known=known, fixed=_FIXED, ignored=_IGNORED)
        fields = {cls._entries[name][0]: value for name, value in got.items() if name in cls._entries}
        if "out_channels" in fields and fields["out_channels"] is None:
            fields["out_channels"] = fields.get("in_channels", cls.in_channels)
        return cls(**fields, qk_norm=raw.get("qk_norm") is not None, cross_attention_dim=got.get("cross_attention_dim"))

    def to_json(self) -> dict[str, Any]:
        """As diffusers writes it."""
        return {
            "_class_name": self._class_name,
            **{name: getattr(self, field) for name, (field, _) in self._entries.items()},
            "cross_attention_dim": self.width,
            "norm_elementwise_affine": False,
            "qk_norm": QK_NORM if self.qk_norm else None,
        }


@dataclass(frozen=True)
class SanaControlNetConfig(SanaConfig):
    """``layers`` are the copied blocks. Time and guidance are the base transformer's, so their settings are not here.

    diffusers' class has no ``qk_norm``; it is written only for the ControlNet of a base that has it.
    """

    layers: int = 7

    _what: ClassVar[str] = "SANA ControlNet"
    _class_name: ClassVar[str] = "SanaControlNetModel"
    _entries: ClassVar[Mapping[str, tuple[str, Kind]]] = _FIELDS

    def differences(self, base: SanaConfig) -> dict[str, str]:
        """What keeps this ControlNet from controlling a ``base`` transformer: the entry, and its two values."""
        said = {
            name: f"{getattr(self, name)} and {getattr(base, name)}"
            for name in ("width", "in_channels", "patch_size", "caption_channels")
            if getattr(self, name) != getattr(base, name)
        }
        if self.layers >= base.layers:
            said["layers"] = f"{self.layers}, which must be fewer than {base.layers}"
        return said

    def to_json(self) -> dict[str, Any]:
        written = super().to_json()
        if not self.qk_norm:
            del written["qk_norm"]
        return written
