"""Composed clips as latents and text, made once and kept: what models of clips train on.

V clips, C latent channels, T frames, t/h/w latent frames and sides, P side of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from frolic.config import Positive
from frolic.data.cached import Bucket, CaptionedLatents
from frolic.data.motion import EVERYDAY_MOVES, MIX, Clip, Loops, clips, meaning, render_clip
from frolic.data.scenes import Cast
from frolic.errors import ConfigError
from frolic.train.tasks.cache import cached, encoded
from frolic.train.tasks.component import Share, known_kinds, open_loops, open_pack, pack_mark
from frolic.train.tasks.scenes import Composed, Encode, captioned

_AT_ONCE = 16  # clips rendered and encoded together

MotionMix = Annotated[dict[str, Share], known_kinds(MIX)]
"""Kinds of clips, each with its share."""


class Clips(Composed):
    """``clips`` of ``frames`` at ``side`` squared pixels are composed and kept as latents, the kinds in the shares of
    ``mix``. ``animated`` as in ``kind: reconstruction``. Of one frame they are pictures, which teach what things look
    like for a fraction of the work. ``autoencoder`` is a folder that holds ``vae``, ``text`` one with ``text_encoder``
    and ``tokenizer``, or the name of a model that has them."""

    autoencoder: str
    text: str
    animated: str | None = None
    mix: MotionMix = Field(default_factory=lambda: dict(MIX))
    clips: Positive
    frames: Positive = 17
    side: Positive = 96

    def check(self, vae: Any) -> None:
        """Raises:
        ConfigError: that autoencoder has no latents of these clips.
        """
        config = vae.config
        if (self.frames - 1) % config.frame_stride or self.side % config.stride:
            raise ConfigError(
                f"data: {self.frames} frames of {self.side} pixels cannot be encoded; frames are 1 and a multiple of "
                f"{config.frame_stride}, sides multiples of {config.stride}."
            )


@dataclass(frozen=True)
class ClipLatents:
    """``source`` of batches; the ``clips`` in its order, of the ``cast`` and drawn from ``sprites`` and the animated
    cut-outs ``films``, which ``loops`` are of; all their captions, each once, as ``sentences``; and the ``marks`` of
    what all of it is made from."""

    source: CaptionedLatents
    clips: Sequence[Clip]
    cast: Cast
    sprites: Tensor
    films: Tensor | None
    loops: Loops | None
    sentences: list[str]
    marks: Mapping[str, str]

    def meanings(self) -> Tensor:
        """[V]: see ``frolic.data.motion.meaning``."""
        return torch.tensor([meaning(clip, self.cast.concepts) for clip in self.clips])


def clip_latents(
    data: Clips,
    tokens: int,
    vae: Any,
    encode: Encode,
    parts: Mapping[str, str],
    device: torch.device,
    prefetch: int,
) -> ClipLatents:
    """The clips of ``data``, from the cache where that has them. ``vae`` is on ``device``; ``parts`` are the marks of
    the ``autoencoder`` and of the ``text encoder`` behind ``encode``.

    Raises:
        ConfigError: the autoencoder has no latents of such clips. FileError: the cut-outs are not there.
    """
    data.check(vae)
    sprites, concepts = open_pack(data.pack)
    loops, films = open_loops(data.animated)
    marks = {**parts, "training set": pack_mark(sprites, concepts)}
    cast = Cast(concepts, EVERYDAY_MOVES)
    shown = clips(cast, data.clips, data.seed, data.mix, loops=loops)

    def make() -> dict[str, Tensor]:
        return {"latents": torch.cat([*latents_of(shown, data, sprites, films, vae, device, prefetch)])}

    key = [marks["autoencoder"], marks["training set"], repr(shown), repr((data.side, data.frames))]
    latents = cached(data.kept(), key, make, f"{len(shown)} clips")["latents"]
    captions = [clip.captions for clip in shown]
    buckets = [Bucket(latents, 0, 1.0)]
    source, sentences = captioned(data, buckets, 1.0, captions, encode, marks["text encoder"], tokens)
    return ClipLatents(source, shown, cast, sprites, films, loops, sentences, marks)


def latents_of(
    shown: Sequence[Clip],
    data: Clips,
    sprites: Tensor,
    films: Tensor | None,
    vae: Any,
    device: torch.device,
    prefetch: int,
) -> Iterator[Tensor]:
    """Parts of [V, C, t, h, w] in half precision, in the transformer's scale."""
    encode: Callable[[Tensor], Tensor] = lambda x: vae.scaled(vae.encode(x).float())  # noqa: E731
    pixels = partial(_pixels, shown, data, sprites, films)
    return encoded(pixels, encode, len(shown), _AT_ONCE, device, prefetch)


def _pixels(shown: Sequence[Clip], data: Clips, sprites: Tensor, films: Tensor | None, number: int) -> Tensor:
    some = shown[number * _AT_ONCE : (number + 1) * _AT_ONCE]
    made = [render_clip(sprites, clip, data.side, data.side, data.frames, films) for clip in some]
    return torch.stack(made).float() / 127.5 - 1
