"""Rewards that are a cosine between a picture and its prompt: HPS, PickScore, CLIP score.

N pictures, D the width of a tower's summary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frolic.errors import ConfigError, nearest
from frolic.rewards.base import Base, per_frame
from frolic.rewards.kept import Kept
from frolic.rewards.keymaps import CLIP_LAYOUTS, UNUSED
from frolic.rewards.reading import Piece, Reader
from frolic.rewards.towers import CLIPS, clip

_KEPT = 1024


class Agreement(Base):
    """The cosine of what CLIP's towers say of a frame and of its prompt, without the published scale. A subclass says
    which CLIP (``model``, where the weights' folder has no ``config.json``) and how frames are fitted (``fit``).

    Args:
        weights: a file or a folder, in transformers' or open_clip's names.
        tokenizer: ``tokenizer.json``, by default the one beside the weights.
        fit: ``squash``, ``crop`` or ``pad`` (``frolic.rewards.preprocess.resize``), by default as published.
        dtype: what the towers compute in, ``float32``, ``bfloat16`` or ``float16``; cosines are float32.

    Raises:
        ConfigError: options do not fit.
        FileError, ModelError: a file is missing, unsafe or does not fit; all that is wrong is listed.
    """

    model: str = ""
    fit: str = "squash"

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        tokenizer: str | Path | None = None,
        fit: str | None = None,
        dtype: str = "float32",
        model: str | None = None,
    ) -> None:
        super().__init__()
        reader = Reader(self.name, weights, dtype)
        file = reader.weights()
        self.towers = clip(self._config(reader, model), reader.place, fit or self.fit)
        reader.fill("weights", file, {"": Piece(self.towers, CLIP_LAYOUTS, UNUSED)})
        words = reader.tokenizer(tokenizer, self.towers.vocabulary)
        reader.done()
        assert words is not None
        self.words, self.marks = words, reader.marks
        self.texts = Kept(_KEPT, self._read)

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        check(frames_BT3HW, prompts)
        texts_BD = torch.stack(self.texts.of(prompts))
        texts_ND = texts_BD.repeat_interleave(frames_BT3HW.shape[1], dim=0)
        return per_frame(lambda x: self.agreement(x, texts_ND), frames_BT3HW)

    def agreement(self, pictures_N3HW: Tensor, texts_ND: Tensor) -> Tensor:
        """``[N]``: the cosine of each picture with its text, of which the summary has length 1."""
        return (self.towers.summary(self.towers.see(pictures_N3HW)) * texts_ND).sum(dim=1)

    def _read(self, prompt: str) -> Tensor:
        # A token sees only those before it, so what would fill up the line after the end is left out.
        return self.towers.read(self.words.cut(prompt, self.towers.tokens))[1]

    def _config(self, reader: Reader, model: str | None) -> Mapping[str, Any]:
        if model is not None and model not in CLIPS:
            raise ConfigError(f"There is no CLIP {model!r}{nearest(model, CLIPS)}; there are {', '.join(CLIPS)}.")
        if model is None and (said := reader.config("clip")):
            return said
        name = model or self.model
        if not name:
            raise ConfigError(
                f"{reader.place} has no config.json that says which CLIP it is; give model, one of {', '.join(CLIPS)}."
            )
        return CLIPS[name]

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.texts.clear()  # of another device or dtype
        return super()._apply(*args, **kwargs)


class HPSv2(Agreement):
    """Human Preference Score v2, Wu et al. (arXiv 2306.09341): ViT-H/14, fine-tuned on choices between pictures.

    Frames are squashed to a square, as reward training was published with; the authors' own scoring pads
    (``fit="pad"``). A square picture is the same under both.
    """

    name = "hps-v2.0"
    model = "laion-vit-h-14"


class HPSv21(HPSv2):
    """The same model, trained on more and better choices."""

    name = "hps-v2.1"


class PickScore(Agreement):
    """PickScore, Kirstain et al. (arXiv 2305.01569): ViT-H/14, fine-tuned on choices of an application's users."""

    name = "pickscore"
    model = "laion-vit-h-14"
    fit = "crop"


class ClipScore(Agreement):
    """CLIP score, Hessel et al. (arXiv 2104.08718), as the bare cosine: not cut at zero, because a cut has no slope,
    and without the factor 2.5."""

    name = "clip"
    fit = "crop"


def check(frames_BT3HW: Tensor, prompts: Sequence[str]) -> None:
    """Raises:
    ConfigError: there are not as many prompts as clips.
    """
    if len(prompts) != len(frames_BT3HW):
        raise ConfigError(f"{len(frames_BT3HW)} clips came with {len(prompts)} prompts; give one for each clip.")
