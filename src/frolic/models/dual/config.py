"""The dual encoder's ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from frolic.models.configs import SIZE, read_config, refuse, whole

KIND = "dual-encoder"
_KNOWN = {
    "side": whole(32, 1024),
    "widths": whole(8, 4096).list(),
    "text_width": SIZE,
    "text_heads": whole(1, 64),
    "embedding": whole(1, 4096),
}
_GROUPS = 8


@dataclass(frozen=True)
class DualConfig:
    """``side`` of the pictures in pixels; ``widths`` of the image tower's four stages, at 1/2, 1/4, 1/8 and 1/16 of the
    side; ``text_width`` of the states it reads of a text, pooled by ``text_heads``; ``embedding`` is what both towers
    end in."""

    side: int = 64
    widths: tuple[int, ...] = (24, 48, 96, 128)
    text_width: int = 192
    text_heads: int = 4
    embedding: int = 96

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> DualConfig:
        """Raises:
        CheckpointError: listing every entry that is unknown or cannot be honoured.
        """
        got = read_config(raw, what="dual encoder", known=_KNOWN, fixed={"model_type": (KIND,)})
        config = cls(**{**got, **({"widths": tuple(got["widths"])} if "widths" in got else {})})
        wrong = []
        if config.side % 16:
            wrong.append(f"side is {config.side}, it must be a multiple of 16")
        if len(config.widths) != 4 or any(width % _GROUPS for width in config.widths):
            wrong.append(f"widths are {list(config.widths)}, they must be four multiples of {_GROUPS}")
        if config.embedding % config.text_heads:
            wrong.append(f"embedding is {config.embedding}, it must be a multiple of text_heads, {config.text_heads}")
        refuse("dual encoder", wrong)
        return config

    def to_json(self) -> dict[str, Any]:
        return {"model_type": KIND, **asdict(self), "widths": list(self.widths)}

    @property
    def features(self) -> int:
        """How many numbers ``ImageTower.features`` gives of a picture."""
        return 2 * (3 + sum(self.widths))
