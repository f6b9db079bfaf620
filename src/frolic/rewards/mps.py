"""MPS, the multi-dimensional preference score of Zhang et al., "Learning Multi-dimensional Human Preference for
Text-to-Image Generation" (arXiv 2405.14705).

B clips, N pictures, S tokens of a text, P places of a picture, D the width of both towers, H heads, K the width of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from frolic.errors import CheckpointError, ConfigError, nearest
from frolic.io.files import read_json_object
from frolic.io.tokenizer import Tokenizer
from frolic.rewards.agreement import check
from frolic.rewards.base import Base, per_frame
from frolic.rewards.cross import Cross
from frolic.rewards.kept import Kept
from frolic.rewards.keymaps import CLIP_LAYOUTS, MPS_CROSS, UNUSED
from frolic.rewards.reading import Piece, Reader, build
from frolic.rewards.towers import CLIPS, clip, precise, unit

CONDITION = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, "
    "texture, quantity, attributes, position, number, location, word, things."
)
"""What the published overall score asks about."""

_KEPT = 128
_COMPATS = ("", "original")


class Text(NamedTuple):
    """Of a prompt: each token's state [S, D], the whole's [D], and each token's relevance to the condition [S]."""

    states: Tensor
    whole: Tensor
    relevance: Tensor


class MPS(Base):
    """The cosine between a prompt and a frame that attended to those words of the prompt that the condition asks about.

    A word counts where its relevance is more than ``threshold`` of the largest in its own prompt. The published code
    takes the largest of the whole batch, so that a score depends on what else is scored; and it rounds pictures to half
    precision whatever the model computes in. ``compat="original"`` does both as published. For a clip alone the two
    agree but for that rounding.

    Args:
        weights: ``MPS_overall`` as safetensors, or a folder with it.
        tokenizer: ``tokenizer.json`` of CLIP, by default the one beside the weights. Texts are filled up, and what
            fills them counts; a ``tokenizer_config.json`` beside it may say with what, otherwise it is the last token.
        condition: what to judge by, in words.
        fit, dtype: as ``frolic.rewards.agreement.Agreement``; published reward training squashes, the authors' own
            scoring crops.

    Raises:
        ConfigError, FileError, ModelError: as ``Agreement``.
    """

    name = "mps"

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        tokenizer: str | Path | None = None,
        condition: str = CONDITION,
        threshold: float = 0.01,
        compat: str = "",
        fit: str = "squash",
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        if compat not in _COMPATS:
            raise ConfigError(f"compat is {compat!r}; give 'original' or leave it out{nearest(compat, _COMPATS)}.")
        if not 0 <= threshold < 1:
            raise ConfigError(f"threshold is {threshold}; give a number from 0 to below 1.")
        reader = Reader(self.name, weights, dtype)
        file = reader.weights()
        self.towers = clip(reader.config("clip") or CLIPS["laion-vit-h-14"], reader.place, fit)
        self.cross = build(lambda: Cross(self.towers.width), reader.place)
        pieces = {
            "model.": Piece(self.towers, CLIP_LAYOUTS, UNUSED),
            "cross_model.": Piece(self.cross, (MPS_CROSS,)),
        }
        reader.fill("weights", file, pieces)
        words = reader.tokenizer(tokenizer, self.towers.vocabulary)
        reader.done()
        assert words is not None and reader.words_at is not None
        self.words, self.marks, self._fill = words, reader.marks, _filler(reader.words_at, words)
        self.condition, self.threshold, self.original = condition, threshold, compat == "original"
        self.texts = Kept(_KEPT, self._text)
        self.conditions = Kept(1, lambda text: self._read(text)[0])

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        check(frames_BT3HW, prompts)
        texts = self.texts.of(prompts)
        relevance_BS = torch.stack([text.relevance for text in texts])
        largest = relevance_BS.amax() if self.original else relevance_BS.amax(dim=1, keepdim=True)
        parts = (
            torch.stack([text.states for text in texts]),
            torch.stack([text.whole for text in texts]),
            relevance_BS / largest > self.threshold,
        )
        states, whole, heard = (part.repeat_interleave(frames_BT3HW.shape[1], dim=0) for part in parts)
        return per_frame(lambda x: self.agreement(x, states, whole, heard), frames_BT3HW)

    def agreement(self, pictures_N3HW: Tensor, states_NSD: Tensor, whole_ND: Tensor, heard_NS: Tensor) -> Tensor:
        """``[N]``: the cosine of each picture with its text; the picture attends to the tokens that are ``heard``."""
        seen = self.towers.see(pictures_N3HW)
        x_NPD = self.towers.states(seen.half() if self.original else seen)
        x_NPD = self.cross(x_NPD, states_NSD, heard_NS, rough=self.original)
        return (unit(x_NPD[:, 0]) * whole_ND).sum(dim=1)

    def _text(self, prompt: str) -> Text:
        states, whole = self._read(prompt)
        (condition,) = self.conditions.of([self.condition])
        told, asked = (states, condition) if self.original else (precise(states), precise(condition))
        return Text(states, whole, (told @ asked.t()).amax(dim=1))

    def _read(self, text: str) -> tuple[Tensor, Tensor]:
        ids = self.words.cut(text, self.towers.tokens)
        return self.towers.read(ids + [self._fill] * (self.towers.tokens - len(ids)))

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.texts.clear()
        self.conditions.clear()
        return super()._apply(*args, **kwargs)


def _filler(path: Path, words: Tokenizer) -> int:
    """The id that fills up a line.

    Raises:
        CheckpointError: the tokenizer's settings name no token of it.
    """
    settings = path.parent / "tokenizer_config.json"
    said = read_json_object(settings).get("pad_token") if settings.is_file() else None
    if said is None:
        return words.ids("")[-1]
    token = said.get("content") if isinstance(said, dict) else said
    found = words.find(token) if isinstance(token, str) else None
    if found is None:
        raise CheckpointError(f"{settings} fills with {token!r}, which {path} does not have; get both files again.")
    return found
