"""Rewards of how a picture looks, whatever it was to show: published predictors of the marks people gave.

N pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from frolic.rewards.base import Base, per_frame
from frolic.rewards.keymaps import AESTHETIC_V2, AESTHETIC_V2_5, CLIP_LAYOUTS, PLAIN, UNUSED, UNUSED_TEXT, Layout
from frolic.rewards.reading import PREDICTOR, Piece, Reader, build
from frolic.rewards.towers import CLIPS, SO400M, Eye, clip_eye, siglip_eye

_WIDTHS = (1024, 128, 64, 16, 1)


class Aesthetic(Base):
    """A mark from about 1 to 10, of a tower's unit summary through five linear layers with nothing between them.

    Args:
        weights: the tower, a file or a folder; what else CLIP or SigLIP has is left out.
        predictor: the layers' file; by default ``predictor.safetensors`` beside the tower.
        fit, dtype: as ``frolic.rewards.agreement.Agreement``.

    Raises:
        ConfigError, FileError, ModelError: as ``Agreement``.
    """

    kind: str
    published: Mapping[str, Any]
    layouts: Sequence[Layout]
    head: Layout
    make: Callable[[Mapping[str, Any], Path, str], Eye]

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        predictor: str | Path | None = None,
        fit: str = "squash",
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        reader = Reader(self.name, weights, dtype)
        file = reader.weights()
        self.tower = type(self).make(reader.config(self.kind) or self.published, reader.place, fit)
        self.predictor = build(lambda: _layers(self.tower.width), reader.place)
        reader.fill("weights", file, {"": Piece(self.tower, self.layouts, UNUSED + UNUSED_TEXT)})
        path = reader.beside(predictor, PREDICTOR, "predictor")
        if path is not None:
            # A mark of 5 in bfloat16 has steps of 0.03.
            reader.fill("predictor", path, {"": Piece(self.predictor, (self.head,), precise=True)})
        reader.done()
        self.marks = reader.marks

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return per_frame(self.mark, frames_BT3HW)

    def mark(self, pictures_N3HW: Tensor) -> Tensor:
        """``[N]``, of ``[N, 3, H, W]`` in [0, 1]."""
        mark: Tensor = self.predictor(self.tower.summary(self.tower.see(pictures_N3HW)))
        return mark[:, 0]


class AestheticV2(Aesthetic):
    """LAION's improved predictor (Schuhmann 2022, "sac+logos+ava1") on OpenAI's ViT-L/14."""

    name = "aesthetic-v2"
    kind, published = "clip", CLIPS["openai-vit-l-14"]
    layouts, head = CLIP_LAYOUTS, AESTHETIC_V2
    make = staticmethod(clip_eye)


class AestheticV25(Aesthetic):
    """Aesthetic Predictor V2.5 (discus0434, 2024) on SigLIP so400m at 384 pixels."""

    name = "aesthetic-v2.5"
    kind, published = "siglip", SO400M
    layouts, head = PLAIN, AESTHETIC_V2_5
    make = staticmethod(siglip_eye)


def _layers(width: int) -> nn.Sequential:
    # The published dropouts do nothing while scoring.
    return nn.Sequential(*(nn.Linear(*ends) for ends in pairwise((width, *_WIDTHS))))
