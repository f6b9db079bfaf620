"""What tells a model whether its pictures or clips show their captions, made of a finished dual encoder of latents.

V pictures or clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from frolic.data.cached import CaptionedLatents, TextSet
from frolic.data.prompts import Prompts
from frolic.data.told import ToldApart, ToldPrompts, embedded, mistakes
from frolic.errors import CheckpointError, ConfigError
from frolic.io import safetensors
from frolic.io.files import read_json_object
from frolic.models.dual.latent import LatentDualConfig, LatentDualEncoder
from frolic.rewards.dual import CONFIG, WEIGHTS
from frolic.train.objectives.agreement import Agreement, OpinionSettings
from frolic.train.tasks.scenes import Composed, Encode, sentence_set


class Captioned(Protocol):
    """Latents with their captions, each once in ``sentences``, and the ``marks`` of what they are made from. What is of
    the same of the ``meanings`` [V] has captions that are true of both."""

    @property
    def source(self) -> CaptionedLatents: ...

    @property
    def sentences(self) -> list[str]: ...

    @property
    def marks(self) -> Mapping[str, str]: ...

    def meanings(self) -> Tensor: ...


def tell_apart(made: Captioned, data: Composed, encode: Encode, tokens: int) -> ToldApart:
    """What was made, with all that ``ToldApart`` needs beside them; mistaken captions are kept as the true ones are."""
    sentences, wrong_of = mistakes(made.sentences)
    wrongs = sentence_set(data, sentences, encode, made.marks["text encoder"], tokens)
    return ToldApart(made.source, made.meanings(), wrongs, wrong_of)


def agreement_on(
    made: Captioned, data: Composed, settings: OpinionSettings, encode: Encode, tokens: int, device: torch.device
) -> tuple[ToldApart, Agreement]:
    """What was made, and what a finished encoder says of what a model makes of the same captions. It computes on
    ``device``.

    Raises:
        As ``read_latent_dual``; and ConfigError: it reads clips of another length.
    """
    encoder = _reader(settings, made.marks, made.source.buckets[0].latents.shape[1:])
    told = tell_apart(made, data, encode, tokens)
    return told, _agreement(encoder, settings, made.source.captions.texts, told.wrongs, told.meaning_of, device)


def agreement_on_prompts(
    source: Prompts,
    settings: OpinionSettings,
    encode: Callable[[list[str]], TextSet],
    parts: Mapping[str, str],
    shape: Sequence[int],
    device: torch.device,
) -> tuple[ToldPrompts, Agreement]:
    """As ``agreement_on``, of prompts alone, each of which means something else. ``parts`` are the marks of what the
    latents and texts are of, ``shape`` [C, (t,) h, w] is that of latents."""
    encoder = _reader(settings, parts, shape)
    sentences, wrong_of = mistakes(source.prompts)
    prompts, wrongs = (encode(list(texts)) for texts in (source.prompts, sentences))
    meaning = torch.arange(len(source.prompts))
    return ToldPrompts(source, wrong_of), _agreement(encoder, settings, prompts, wrongs, meaning, device)


def _reader(settings: OpinionSettings, parts: Mapping[str, str], shape: Sequence[int]) -> LatentDualEncoder:
    encoder = read_latent_dual(settings.folder, parts["autoencoder"], parts["text encoder"])
    frames = shape[1] if len(shape) == 4 else 1
    if encoder.config.frames != frames:
        raise ConfigError(
            f"job.agreement: {settings.folder} reads latents of {encoder.config.frames} frames, and these have "
            f"{frames}; train one for these."
        )
    return encoder


@torch.no_grad()
def _agreement(
    encoder: LatentDualEncoder,
    settings: OpinionSettings,
    captions: TextSet,
    wrongs: TextSet,
    meaning: Tensor,
    device: torch.device,
) -> Agreement:
    tokens = encoder.config.tokens
    given = (embedded(captions, tokens, encoder.text), embedded(wrongs, tokens, encoder.text), meaning)
    return Agreement(encoder.to(device), settings, *(each.to(device) for each in given))


def read_latent_dual(folder: Path, autoencoder: str, text: str) -> LatentDualEncoder:
    """The encoder in ``folder``, in float32, if it reads the latents and states of what has these fingerprints.

    Raises:
        CheckpointError: listing all that is wrong. FileError: it cannot be read.
    """
    raw = read_json_object(folder / CONFIG)
    encoder = LatentDualEncoder(LatentDualConfig.from_json(raw))
    safetensors.fill(encoder, folder / WEIGHTS, fault="does not fit the encoder")
    wanted = {"autoencoder": autoencoder, "text encoder": text}
    other = [name for name, mark in wanted.items() if raw.get(f"_{name.replace(' ', '_')}") != mark]
    if other:
        raise CheckpointError(f"{folder} was trained with another {' and another '.join(other)}; train it again.")
    return encoder.eval().requires_grad_(False)
