"""The dimensions of a Wan transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from frolic.models.configs import FLAG, LAYERS, POSITIVE, SIZE, Kind, read_config, refuse, whole

TEXT_LENGTH = 512
"""Places of a text. Wan pads shorter ones with zeros, and reads those too."""

_PATCH = whole(1, 16).list()
_FIELDS: dict[str, tuple[str, Kind]] = {
    "num_attention_heads": ("heads", SIZE),
    "attention_head_dim": ("head_dim", SIZE),
    "in_channels": ("in_channels", SIZE),
    "out_channels": ("out_channels", SIZE.or_none()),
    "text_dim": ("text_dim", SIZE),
    "freq_dim": ("freq_dim", SIZE),
    "ffn_dim": ("hidden", SIZE),
    "num_layers": ("layers", LAYERS),
    "cross_attn_norm": ("cross_norm", FLAG),
    "eps": ("norm_eps", POSITIVE),
    "patch_size": ("patch", _PATCH),
}
"""diffusers' name of an entry: our name, and what it may be."""

_FIXED: dict[str, tuple[Any, ...]] = {
    "qk_norm": ("rms_norm_across_heads",),
    # The encoded picture that Wan2.1's image-to-video models read besides the text.
    "image_dim": (None,),
    "added_kv_proj_dim": (None,),
    "pos_embed_seq_len": (None,),
}
# A table of positions that is computed here, as far as it is needed.
_IGNORED = {"rope_max_seq_len", "window_size"}


@dataclass(frozen=True)
class WanConfig:
    """Defaults are those of Wan 14B. ``heads * head_dim`` is the width. ``in_channels`` beyond ``out_channels`` say
    what is known of the clip, and where: its first frame."""

    heads: int = 40
    head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    hidden: int = 13824
    layers: int = 40
    cross_norm: bool = True
    norm_eps: float = 1e-6
    patch: tuple[int, int, int] = (1, 2, 2)

    def __post_init__(self) -> None:
        problems = []
        if self.head_dim % 2:
            problems.append(f"attention_head_dim is {self.head_dim}, it must be even")
        if len(self.patch) != 3:
            problems.append(f"patch_size is {list(self.patch)}, it must be three numbers: frames, height, width")
        elif self.patch[0] != 1 or self.patch[1] != self.patch[2]:
            problems.append(f"patch_size is {list(self.patch)}, it must be one frame of a square")
        refuse("Wan transformer", problems)

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def patch_size(self) -> int:
        """The side of a patch in latents."""
        return self.patch[1]

    @property
    def caption_channels(self) -> int:
        return self.text_dim

    @property
    def known_channels(self) -> int:
        """How many channels, besides the noisy ones, say what is known of the clip."""
        return self.in_channels - self.out_channels

    def flops(self, tokens: int, text: int) -> float:
        """Operations of one forward of one sample: its products of matrices."""
        per_block = 2 * self.width * (6 * self.width + 2 * self.hidden) * tokens + 4 * self.width * tokens**2
        per_block += 4 * self.width**2 * text + 4 * self.width * text * tokens
        return float(self.layers * per_block)

    def working_bytes(self, tokens: int, itemsize: int) -> int:
        """What one forward of one sample holds at most besides the weights: the feed-forward's widest tensors and the
        attention's, and the norms' in float32."""
        return int(tokens * (itemsize * (6 * self.width + 2 * self.hidden) + 3 * 4 * self.width))

    def graph_bytes(self, tokens: int, itemsize: int) -> int:
        """What one block keeps of a forward of one sample for the way back, with adapters on its linears and nothing
        else to train: counted (``tests/train/test_reward_memory.py``), not derived."""
        return int(tokens * ((87 + 6.6 * itemsize) * self.width + 2.2 * itemsize * self.hidden))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """From the config of diffusers' ``WanTransformer3DModel``.

        Raises:
            CheckpointError: listing every entry that is unknown or cannot be honoured.
        """
        known = {name: kind for name, (_, kind) in _FIELDS.items()}
        got = read_config(raw, what="Wan transformer", known=known, fixed=_FIXED, ignored=_IGNORED)
        fields = {_FIELDS[name][0]: value for name, value in got.items()}
        if "out_channels" in fields and fields["out_channels"] is None:
            fields["out_channels"] = fields.get("in_channels", cls.in_channels)
        if "patch" in fields:
            fields["patch"] = tuple(fields["patch"])
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """As diffusers writes it."""
        return {
            "_class_name": "WanTransformer3DModel",
            **{name: getattr(self, field) for name, (field, _) in _FIELDS.items()},
            "patch_size": list(self.patch),
            "qk_norm": "rms_norm_across_heads",
            "image_dim": None,
            "added_kv_proj_dim": None,
            "rope_max_seq_len": 1024,
            "pos_embed_seq_len": None,
        }
