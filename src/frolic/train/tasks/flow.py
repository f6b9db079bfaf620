"""``kind: flow``: train a transformer on cached latents and text.

B batch, C latent channels, S tokens, E text width, P side of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frolic.config import Recipe, Section
from frolic.data.cached import LatentSet, Variants, captioned, encode_variants
from frolic.data.compose import PALETTE
from frolic.data.starter.fetch import home
from frolic.io.tokenizer import Tokenizer
from frolic.sampling.guidance import cfg
from frolic.sampling.noise import sample_noise
from frolic.sampling.prediction import flow
from frolic.sampling.solvers import SAMPLERS
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.flow import Flow, FlowSettings
from frolic.train.tasks.cache import cached
from frolic.train.tasks.component import (
    ModelSection,
    component_spec,
    load_weights,
    open_pack,
    pack_mark,
    read_component,
    sections,
    weights_mark,
    write_component,
)
from frolic.train.tasks.folder import Card, complete
from frolic.types import Denoise

_PREVIEW_PROMPTS = (
    "a red panda", "a dog", "a cat", "a strawberry", "a hamburger", "an airplane", "a red heart", "a guitar",
    "a fox on a blue background", "a pizza", "a tree", "a robot on a yellow background", "a fish", "a bicycle",
    "a rose", "a rocket on a black background",
)  # fmt: skip


class Settings(FlowSettings):
    """``tokens``: longest caption. ``card``: how the finished model presents itself."""

    tokens: int = 16
    card: Card


class Data(Section):
    """``autoencoder`` and ``text`` are folders that hold ``vae`` and ``text_encoder`` with ``tokenizer``: exports of
    those recipes' runs. ``variants_plain`` and ``variants_coloured``: pictures kept of each concept. A concept on
    the everyday list is drawn ``everyday_weight`` times as often as another."""

    autoencoder: str
    text: str
    pack: str | None = None
    cache: str | None = None
    side: int = 128
    variants_plain: int = 8
    variants_coloured: int = 1
    everyday_weight: float = 3.0
    plain_share: float = 0.5


def build(recipe: Recipe) -> Job:
    settings, data, model = sections(recipe, Settings, Data)
    spec = component_spec(model.family, "transformer")
    config = spec.configure(model.config)
    torch.manual_seed(recipe.trainer.seed)
    transformer = spec.build(config)
    start_small(transformer)
    device = resolve_device(recipe.trainer.device)
    autoencoder, texts = Path(data.autoencoder).expanduser(), Path(data.text).expanduser()
    vae: Any
    vae_config, vae = read_component(model.family, "vae", autoencoder / "vae")
    encode = text_encoder(model.family, texts, settings.tokens, device)
    sprites, concepts = open_pack(data.pack)
    marks = {
        "autoencoder": weights_mark(autoencoder / "vae"),
        "text encoder": weights_mark(texts / "text_encoder"),
        "training set": pack_mark(sprites, concepts),
    }
    source = captioned(
        concepts,
        _latents(data, sprites, vae.to(device), marks, device),
        encode,
        everyday_weight=data.everyday_weight,
        plain_share=data.plain_share,
        tokens=settings.tokens,
        scaling_factor=vae_config.scaling_factor,
    )
    null_text, null_mask = encode([""])

    def draw(net: nn.Module) -> Tensor:
        shape = (vae_config.latent_channels, data.side // vae_config.stride, data.side // vae_config.stride)
        pixels: Tensor = vae.decode(sample(net, encode, settings, shape) / vae_config.scaling_factor)
        return pixels.float()

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        write_component(spec, "transformer", config, modules["transformer"], folder / "transformer", torch.bfloat16)
        complete(folder, model.family, settings.card, settings.shift, autoencoder, texts)

    return Job(
        objective=Flow(transformer, settings, null_text, null_mask, draw),
        source=source,
        export=export,
        warm_start=lambda folder: load_weights(spec, config, transformer, folder / "transformer"),
        inputs=marks,
    )


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


def _latents(data: Data, sprites: Tensor, vae: Any, marks: Mapping[str, str], device: torch.device) -> LatentSet:
    variants = Variants(data.variants_plain, data.variants_coloured)
    cache = Path(data.cache).expanduser() if data.cache else home() / "latents"
    vae.to(memory_format=torch.channels_last)

    def encode(pixels: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            z: Tensor = vae.encode(pixels.to(device).contiguous(memory_format=torch.channels_last))
            return z.float().cpu()

    key = [marks["autoencoder"], marks["training set"], str(variants), str(PALETTE), str(data.side)]
    return LatentSet(**cached(cache, key, lambda: encode_variants(sprites, data.side, variants, encode).tensors()))


def sample(
    net: Any, encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]], settings: Settings, shape: tuple[int, ...]
) -> Tensor:
    """Latents of the fixed preview prompts, each from its own fixed noise."""
    device = next(net.parameters()).device
    text, mask = (t.to(device) for t in encode(_PREVIEW_PROMPTS))
    null, null_mask = (t.to(device) for t in encode([""] * len(_PREVIEW_PROMPTS)))
    contexts = [net.context(text, mask), net.context(null, null_mask)]
    sampler = SAMPLERS[settings.card.sampler]
    schedule = sampler.schedule()

    def denoiser(context: Any) -> Denoise:
        return flow(lambda x, t: net.denoise(x, t, context), schedule.timesteps)

    guided, free = map(denoiser, contexts)
    x = sample_noise(shape, 0, range(len(_PREVIEW_PROMPTS))).to(device)
    sigmas = schedule.sigmas(settings.card.steps, settings.shift)
    for step in sampler.solve(cfg(guided, free, settings.card.guidance_scale), x, sigmas):
        x = step.x
    return x


JOB = JobKind(build, {"job": Settings, "data": Data, "model": ModelSection})
