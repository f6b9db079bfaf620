"""``kind: latent-contrastive``: train a dual encoder of latents and captions on composed scenes.

N pictures, C/h/w latent channels and sides, S tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from frolic.config import Positive, Recipe, Section
from frolic.data.cached import TextSet
from frolic.data.captioned import HeldOut, meaning
from frolic.data.prompts import Prompts
from frolic.data.scenes import Cast, render
from frolic.data.told import ToldApart, ToldPrompts, embedded, mistakes
from frolic.errors import CheckpointError, ConfigError
from frolic.io import safetensors
from frolic.io.files import read_json_object
from frolic.models.dual.latent import LatentDualConfig, LatentDualEncoder
from frolic.plan.find import shipped_or_path
from frolic.rewards.dual import CONFIG, WEIGHTS, write_dual
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.agreement import Agreement, OpinionSettings
from frolic.train.objectives.latent_contrastive import LatentContrastive
from frolic.train.tasks.component import part_marks, read_component
from frolic.train.tasks.scenes import Data, Encode, SceneLatents, Scenes, scene_latents, sentence_set, text_encoder

_AT_ONCE = 50


class Settings(Section):
    """``noise``: largest deviation of noise on latents of about unit deviation. ``tokens``: longest caption.
    ``held_out``: how many hundreds of scenes the finished encoder is measured with."""

    noise: Annotated[float, Field(ge=0, le=1)] = 0.3
    tokens: Positive = 24
    held_out: Positive = 10


class Model(Section):
    """``config``: of the latent dual encoder, entry by entry."""

    config: dict[str, Any] = {}


def build(recipe: Recipe) -> Job:
    settings, data = recipe.section("job", Settings), recipe.section("data", Data)
    model = recipe.section("model", Model)
    if recipe.trainer.accumulation > 1:
        raise ConfigError("trainer.accumulation: captions are told apart within a pass; set it and workers to 1.")
    device = resolve_device(recipe.trainer.device)
    autoencoder, texts = shipped_or_path(data.autoencoder), shipped_or_path(data.text)
    vae: Any
    _, vae = read_component("sana", "vae", autoencoder / "vae")
    encode = text_encoder("sana", texts, settings.tokens, device)
    parts = part_marks(autoencoder, texts)
    sizes = data.sizes(vae.config.stride)
    most = data.commonest(vae.config.stride)
    made = scene_latents(data, sizes, settings.tokens, vae.to(device), encode, parts, device, recipe.trainer.prefetch)
    told = tell_apart(made, data, encode, settings.tokens)
    width, channels = encode([""])[0].shape[2], vae.config.latent_channels
    given = {"channels": channels, "text_width": width, "tokens": settings.tokens, **model.config}
    config = LatentDualConfig.from_json(given)
    if (config.channels, config.text_width) != (channels, width):
        raise ConfigError(
            f"model.config: channels and text_width are those of the autoencoder and the text encoder, {channels} and "
            f"{width}; leave them out."
        )
    torch.manual_seed(recipe.trainer.seed)
    encoder = LatentDualEncoder(config)

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        learned = modules["dual"]
        assert isinstance(learned, LatentDualEncoder)
        facts = measured(learned.to("cpu"), made, vae.to("cpu"), encode, data.mix, most, settings.held_out)
        write_dual(learned, folder, text=parts["text encoder"], facts={"autoencoder": parts["autoencoder"], **facts})

    return Job(
        objective=LatentContrastive(encoder, told.wrongs, settings.noise),
        source=told,
        export=export,
        warm_start=lambda folder: safetensors.fill(encoder, folder / WEIGHTS, fault="does not fit the encoder"),
        inputs=made.marks,
    )


def tell_apart(made: SceneLatents, data: Scenes, encode: Encode, tokens: int) -> ToldApart:
    """The scenes with all that ``ToldApart`` needs beside them; mistaken captions are kept as the true ones are."""
    sentences, wrong_of = mistakes(made.sentences)
    wrongs = sentence_set(data, sentences, encode, made.marks["text encoder"], tokens)
    meanings = torch.tensor([meaning(scene, made.concepts) for scene in made.scenes])
    return ToldApart(made.source, meanings, wrongs, wrong_of)


def agreement_on(
    made: SceneLatents, data: Scenes, settings: OpinionSettings, encode: Encode, tokens: int, device: torch.device
) -> tuple[ToldApart, Agreement]:
    """The scenes, and what a finished encoder says of pictures of their captions. It computes on ``device``.

    Raises:
        As ``read_latent_dual``.
    """
    encoder = _reader(settings, made.marks)
    told = tell_apart(made, data, encode, tokens)
    return told, _agreement(encoder, settings, made.source.captions.texts, told.wrongs, told.meaning_of, device)


def agreement_on_prompts(
    source: Prompts,
    settings: OpinionSettings,
    encode: Callable[[list[str]], TextSet],
    parts: Mapping[str, str],
    device: torch.device,
) -> tuple[ToldPrompts, Agreement]:
    """As ``agreement_on``, of prompts alone, each of which means something else. ``parts`` are the marks of what the
    latents and texts are of."""
    encoder = _reader(settings, parts)
    sentences, wrong_of = mistakes(source.prompts)
    prompts, wrongs = (encode(list(texts)) for texts in (source.prompts, sentences))
    meaning = torch.arange(len(source.prompts))
    return ToldPrompts(source, wrong_of), _agreement(encoder, settings, prompts, wrongs, meaning, device)


def _reader(settings: OpinionSettings, parts: Mapping[str, str]) -> LatentDualEncoder:
    return read_latent_dual(settings.folder, parts["autoencoder"], parts["text encoder"])


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


@torch.no_grad()
def measured(
    encoder: LatentDualEncoder,
    made: SceneLatents,
    vae: Any,
    encode: Encode,
    mix: Mapping[str, float],
    size: tuple[int, int],
    hundreds: int,
) -> dict[str, Any]:
    """Of scenes of this height and width that training does not show: the share whose caption is nearest to the picture
    among those of its group, and the share whose caption is nearer than a mistaken form of it, of those that have
    one."""
    held = HeldOut.make(Cast(made.concepts), hundreds, mix)
    right = told = asked = 0
    for group in held.groups():
        some = (group[k : k + _AT_ONCE] for k in range(0, len(group), _AT_ONCE))
        latents = torch.cat([vae.encode(render(made.sprites, each, *size)) for each in some])
        pictures = encoder.image(latents.float() * vae.config.scaling_factor)
        captions = [scene.captions[0] for scene in group]
        wrongs, wrong_of = mistakes(captions)
        cosines = pictures @ encoder.text(*encode(captions)).T
        right += int((cosines.argmax(dim=1) == torch.arange(len(group))).sum())
        if wrongs:
            against = pictures @ encoder.text(*encode(wrongs)).T
            has = wrong_of[:, 0] >= 0
            nearer = cosines.diagonal() > against.gather(1, wrong_of[:, :1].clamp_min(0))[:, 0]
            told, asked = told + int(nearer[has].sum()), asked + int(has.sum())
    return {
        "held_out_scenes": len(held.scenes),
        "captions_each": HeldOut.GROUP,
        "picture_to_caption_top1": round(right / len(held.scenes), 4),
        "mistakes_told": round(told / max(asked, 1), 4),
    }


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


JOB = JobKind(build, {"job": Settings, "data": Data, "model": Model})
