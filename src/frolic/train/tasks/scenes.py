"""Composed scenes as latents and text, made once and kept: what several tasks train on.

V pictures, C latent channels, h/w latent sides, B batch, S tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from frolic.config import Positive, Section
from frolic.data.cached import Bucket, CaptionedLatents, Captions, TextSet, encode_sentences
from frolic.data.captioned import meaning
from frolic.data.scenes import Scene, render, scenes
from frolic.data.starter.concepts import Concept
from frolic.errors import ConfigError
from frolic.io.home import home
from frolic.io.tokenizer import Tokenizer
from frolic.train.tasks.cache import cached, encoded
from frolic.train.tasks.component import Mix, Share, open_pack, pack_marks, read_component, training_mix

Encode = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Prompts to states [B, S, E] and their mask [B, S], both on the CPU."""

_AT_ONCE = 64  # pictures rendered and encoded together


class Composed(Section):
    """What is composed of the cut-outs in ``pack`` and kept in ``cache``. ``seed`` names a set of it: another one shows
    other arrangements."""

    pack: str | None = None
    cache: str | None = None
    seed: int = 1

    def kept(self) -> Path:
        """Where latents and text are."""
        return Path(self.cache).expanduser() if self.cache else home() / "latents"


class Scenes(Composed):
    """``pictures`` are composed and kept as latents, the kinds of scenes in the shares of ``mix``. ``shapes`` are the
    sizes, as WIDTHxHEIGHT in pixels, with the share of the pictures and of the batches that has each."""

    pictures: Positive
    mix: Mix = Field(default_factory=training_mix)
    shapes: dict[str, Share]

    def sizes(self, stride: int) -> dict[tuple[int, int], float]:
        """Height and width in pixels, and the share of it, 1 in all.

        Raises:
            ConfigError: listing what is no size, or none that the autoencoder has.
        """
        found: dict[tuple[int, int], float] = {}
        wrong = []
        for text, share in self.shapes.items():
            width, _, height = text.partition("x")
            whole = width.isdecimal() and height.isdecimal() and int(width) * int(height) > 0
            if whole and not (int(width) % stride or int(height) % stride):
                found[int(height), int(width)] = share
            else:
                wrong.append(text)
        total = sum(found.values())
        if wrong or not total:
            raise ConfigError(
                f"data.shapes: give WIDTHxHEIGHT, both multiples of {stride}, with a share above 0; "
                f"not {', '.join(wrong) or self.shapes}."
            )
        return {size: share / total for size, share in found.items() if share}

    def commonest(self, stride: int) -> tuple[int, int]:
        """Height and width in pixels that most pictures have. Raises as ``sizes``."""
        sizes = self.sizes(stride)
        return max(sizes, key=lambda size: sizes[size])


class Data(Scenes):
    """``autoencoder`` and ``text`` are folders that hold ``vae`` and ``text_encoder`` with ``tokenizer``: exports of
    those recipes' runs, or models that ship, by their names."""

    autoencoder: str
    text: str


@dataclass(frozen=True)
class SceneLatents:
    """``source`` of batches; the ``scenes`` in the order of its pictures, of ``concepts`` and drawn from ``sprites``;
    all their captions, each once, as ``sentences``; and the ``marks`` of what all of it is made from."""

    source: CaptionedLatents
    scenes: Sequence[Scene]
    concepts: list[Concept]
    sprites: Tensor
    sentences: list[str]
    marks: Mapping[str, str]

    def meanings(self) -> Tensor:
        """[V]: see ``frolic.data.captioned.meaning``."""
        return torch.tensor([meaning(scene, self.concepts) for scene in self.scenes])


def scene_latents(
    data: Scenes,
    sizes: Mapping[tuple[int, int], float],
    tokens: int,
    vae: Any,
    encode: Encode,
    parts: Mapping[str, str],
    device: torch.device,
    prefetch: int,
) -> SceneLatents:
    """The scenes of ``data`` at these ``sizes``, from the cache where that has them. ``vae`` is on ``device``;
    ``parts`` are the marks of the ``autoencoder`` and of the ``text encoder`` behind ``encode``.

    Raises:
        FileError: the sprites are not there.
    """
    sprites, concepts = open_pack(data.pack)
    pictures, whole = pack_marks(sprites, concepts)
    marks = {**parts, "training set": whole}
    drawn = {size: _scenes(data, concepts, size, share) for size, share in sizes.items()}
    buckets, first = [], 0
    for size, shown in drawn.items():
        # What is said of them is not in the pictures: other captions need no other latents.
        key = [marks["autoencoder"], pictures, repr([replace(scene, captions=()) for scene in shown]), repr(size)]
        make = partial(_latents, sprites, shown, size, vae, device, prefetch)
        latents = cached(data.kept(), key, make, f"{len(shown)} scenes of {size[1]}x{size[0]}")["latents"]
        buckets.append(Bucket(latents, first, sizes[size]))
        first += len(latents)
    every = [scene for shown in drawn.values() for scene in shown]
    scale = vae.config.scaling_factor
    captions = [scene.captions for scene in every]
    source, sentences = captioned(data, buckets, scale, captions, encode, marks["text encoder"], tokens)
    return SceneLatents(source, every, concepts, sprites, sentences, marks)


def captioned(
    data: Composed,
    buckets: Sequence[Bucket],
    scale: float,
    captions: Sequence[Sequence[str]],
    encode: Encode,
    mark: str,
    tokens: int,
) -> tuple[CaptionedLatents, list[str]]:
    """The latents in ``buckets``, to be multiplied by ``scale``, with the ``captions`` of each; and all of these, each
    once. ``mark`` is that of the text encoder."""
    sentences = list(dict.fromkeys(text for each in captions for text in each))
    words = sentence_set(data, sentences, encode, mark, tokens)
    return CaptionedLatents(buckets, Captions.of(captions, sentences, words, tokens), scale), sentences


def sentence_set(data: Composed, sentences: Sequence[str], encode: Encode, mark: str, tokens: int) -> TextSet:
    """``sentences`` as the text encoder of this ``mark`` reads them, from the cache where that has them."""
    key = [mark, str(tokens), *sentences]
    return TextSet(**cached(data.kept(), key, lambda: encode_sentences(sentences, encode).tensors(), "captions"))


def text_encoder(family: str, folder: Path, tokens: int, device: torch.device) -> Encode:
    """A function from prompts to states [B, S, E] and their mask [B, S], both on the CPU, from an exported text
    encoder that computes on ``device``."""
    _, encoder = read_component(family, "text_encoder", folder / "text_encoder")
    encoder.to(device)
    tokenizer = Tokenizer(folder / "tokenizer" / "tokenizer.json")

    def encode(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = tokenizer.encode(prompts, tokens)
        with torch.no_grad():
            return encoder(ids.to(device), mask.to(device)).cpu(), mask

    return encode


def _scenes(data: Scenes, concepts: Sequence[Concept], size: tuple[int, int], share: float) -> list[Scene]:
    height, width = size
    # Another seed for each shape: the same scene in two shapes would be one scene less.
    seed = data.seed * 1_000_003 + height * 1009 + width
    return scenes(concepts, max(1, round(data.pictures * share)), seed, data.mix, aspect=width / height)


def _latents(
    sprites: Tensor, shown: Sequence[Scene], size: tuple[int, int], vae: Any, device: torch.device, prefetch: int
) -> dict[str, Tensor]:
    """``latents`` [V, C, h, w] in half precision."""
    vae.to(memory_format=torch.channels_last)

    def pixels(number: int) -> Tensor:
        return render(sprites, shown[number * _AT_ONCE : (number + 1) * _AT_ONCE], *size)

    def encode(x: Tensor) -> Tensor:
        z: Tensor = vae.encode(x.contiguous(memory_format=torch.channels_last))
        return z

    return {"latents": torch.cat([*encoded(pixels, encode, len(shown), _AT_ONCE, device, prefetch)])}
