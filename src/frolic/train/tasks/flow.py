"""``kind: flow``: train a transformer on cached latents and text.

B batch, C latent channels, S tokens, E text width, P side of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from frolic.accel.arithmetic import has_bfloat16
from frolic.config import Positive, Recipe, Section
from frolic.data.cached import Bucket, CaptionedLatents, Captions, TextSet, encode_sentences
from frolic.data.scenes import Scene, render, scenes
from frolic.data.starter.concepts import Concept
from frolic.errors import ConfigError
from frolic.io.home import home
from frolic.io.tokenizer import Tokenizer
from frolic.pipeline.parts import Resident
from frolic.sampling.noise import sample_noise
from frolic.sampling.solvers import SAMPLERS
from frolic.train.batches import ahead
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.flow import Flow, FlowSettings
from frolic.train.painter import guided
from frolic.train.tasks.cache import cached, counted
from frolic.train.tasks.component import (
    STORED,
    Mix,
    ModelSection,
    Share,
    Store,
    component_spec,
    load_weights,
    open_pack,
    pack_mark,
    read_component,
    sections,
    training_mix,
    weights_mark,
    write_component,
)
from frolic.train.tasks.folder import Card, complete

_AT_ONCE = 64  # pictures rendered and encoded together
PREVIEW_PROMPTS = (
    "a red panda", "a dog", "a cat on grass", "a strawberry", "a hamburger", "an airplane in the sky", "a blue car",
    "a guitar", "a fox on a blue background", "a pizza and a banana", "three apples", "a robot on a yellow background",
    "a fish to the left of a cat", "flat icon of a dog", "two roses", "a rocket in the night sky",
)  # fmt: skip


class Settings(FlowSettings):
    """``tokens``: longest caption. ``card``: how the finished model presents itself. ``store``: what the finished
    weights are kept in."""

    tokens: int = 24
    card: Card
    store: Store = "bfloat16"


class Scenes(Section):
    """``pictures`` are composed and kept as latents, the kinds of scenes in the shares of ``mix``. ``shapes`` are the
    sizes, as WIDTHxHEIGHT in pixels, with the share of the pictures and of the batches that has each. ``seed`` names a
    set of pictures: another one shows other scenes."""

    pack: str | None = None
    cache: str | None = None
    pictures: Positive
    mix: Mix = Field(default_factory=training_mix)
    shapes: dict[str, Share]
    seed: int = 1

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


class Data(Scenes):
    """``autoencoder`` and ``text`` are folders that hold ``vae`` and ``text_encoder`` with ``tokenizer``: exports of
    those recipes' runs."""

    autoencoder: str
    text: str


def build(recipe: Recipe) -> Job:
    settings, data, model = sections(recipe, Settings, Data)
    spec = component_spec(model.family, "transformer")
    config = spec.configure(model.config)
    torch.manual_seed(recipe.trainer.seed)
    transformer = spec.build(config)
    start_small(transformer)
    device = resolve_device(recipe.trainer.device)
    if spec.fuse and device.type == "cpu" and not recipe.trainer.compile:
        spec.fuse(transformer)
    autoencoder, texts = Path(data.autoencoder).expanduser(), Path(data.text).expanduser()
    vae: Any
    vae_config, vae = read_component(model.family, "vae", autoencoder / "vae")
    encode = text_encoder(model.family, texts, settings.tokens, device)
    sizes = data.sizes(vae_config.stride)
    parts = {"autoencoder": weights_mark(autoencoder / "vae"), "text encoder": weights_mark(texts / "text_encoder")}
    source, marks = scene_latents(
        data, sizes, settings.tokens, vae.to(device), encode, parts, device, recipe.trainer.prefetch
    )
    null_text, null_mask = encode([""])

    def draw(net: nn.Module) -> Tensor:
        height, width = max(sizes, key=lambda size: sizes[size])
        shape = (vae_config.latent_channels, height // vae_config.stride, width // vae_config.stride)
        pixels: Tensor = vae.decode(sample(net, encode, settings, shape) / vae_config.scaling_factor)
        return pixels.float()

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        write_component(
            spec, "transformer", config, modules["transformer"], folder / "transformer", STORED[settings.store]
        )
        complete(folder, model.family, settings.card, settings.shift, settings.tokens, autoencoder, texts)

    return Job(
        objective=Flow(transformer, settings, null_text, null_mask, draw),
        source=source,
        export=export,
        warm_start=lambda folder: load_weights(spec, config, transformer, folder / "transformer"),
        inputs=marks,
    )


def scene_latents(
    data: Scenes,
    sizes: Mapping[tuple[int, int], float],
    tokens: int,
    vae: Any,
    encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    parts: Mapping[str, str],
    device: torch.device,
    prefetch: int,
) -> tuple[CaptionedLatents, dict[str, str]]:
    """The scenes of ``data`` at these ``sizes``, from the cache where that has them, and the marks of all they are made
    from. ``vae`` is on ``device``; ``parts`` are the marks of the ``autoencoder`` and of the ``text encoder`` behind
    ``encode``.

    Raises:
        FileError: the sprites are not there.
    """
    sprites, concepts = open_pack(data.pack)
    marks = {**parts, "training set": pack_mark(sprites, concepts)}
    cache = Path(data.cache).expanduser() if data.cache else home() / "latents"
    drawn = {size: _scenes(data, concepts, size, share) for size, share in sizes.items()}
    buckets, first = [], 0
    for size, shown in drawn.items():
        key = [marks["autoencoder"], marks["training set"], repr(shown), repr(size)]
        make = partial(_latents, sprites, shown, size, vae, device, prefetch)
        latents = cached(cache, key, make, f"{len(shown)} scenes of {size[1]}x{size[0]}")["latents"]
        buckets.append(Bucket(latents, first, sizes[size]))
        first += len(latents)
    captions = [scene.captions for shown in drawn.values() for scene in shown]
    sentences = list(dict.fromkeys(text for each in captions for text in each))
    key = [marks["text encoder"], str(tokens), *sentences]
    words = TextSet(**cached(cache, key, lambda: encode_sentences(sentences, encode).tensors(), "captions"))
    return CaptionedLatents(buckets, Captions.of(captions, sentences, words, tokens), vae.config.scaling_factor), marks


def start_small(transformer: Any) -> None:
    """Let blocks begin with a small part in the residual stream, and the model with zero, the mean velocity."""
    with torch.no_grad():
        for block in transformer.blocks:
            for layer in (block.attn.out, block.cross.out):
                layer.weight.mul_(0.2)
                nn.init.zeros_(layer.bias)
            block.mlp.project.weight.mul_(0.2)
        transformer.out.weight.zero_()
        transformer.out.bias.zero_()


def text_encoder(
    family: str, folder: Path, tokens: int, device: torch.device
) -> Callable[[Sequence[str]], tuple[Tensor, Tensor]]:
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
    parts = []

    def pictures(number: int) -> Tensor:
        return render(sprites, shown[number * _AT_ONCE : (number + 1) * _AT_ONCE], *size)

    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device)):
        made = ahead(pictures, 0, math.ceil(len(shown) / _AT_ONCE), prefetch)
        for pixels in counted(made, len(shown), _AT_ONCE):
            z: Tensor = vae.encode(pixels.to(device).contiguous(memory_format=torch.channels_last))
            parts.append(z.float().half().cpu())
    return {"latents": torch.cat(parts)}


def sample(
    net: Any, encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]], settings: Settings, shape: tuple[int, ...]
) -> Tensor:
    """Latents of the fixed preview prompts, each from its own fixed noise."""
    device = next(net.parameters()).device
    text, null = (tuple(t.to(device) for t in encode(prompts)) for prompts in (PREVIEW_PROMPTS, [""]))
    sampler = SAMPLERS[settings.card.sampler]
    schedule = sampler.schedule()
    denoise = guided(Resident(net).get, text, null, settings.card.guidance_scale, schedule)
    x = sample_noise(shape, 0, range(len(PREVIEW_PROMPTS))).to(device)
    sigmas = schedule.sigmas(settings.card.steps, settings.shift)
    for step in sampler.solve(denoise, x, sigmas):
        x = step.x
    return x


JOB = JobKind(build, {"job": Settings, "data": Data, "model": ModelSection})
