"""``kind: flow``: train a transformer on cached latents and text.

B batch, C latent channels, S tokens, E text width, P side of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frolic.config import Fraction, Recipe
from frolic.errors import ConfigError
from frolic.pipeline.parts import Resident
from frolic.plan.find import shipped_or_path
from frolic.sampling.noise import sample_noise
from frolic.sampling.solvers import SAMPLERS
from frolic.spec import ComponentSpec
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.base import Source
from frolic.train.objectives.flow import Flow, FlowAgreementSettings, FlowSettings
from frolic.train.painter import guided
from frolic.train.tasks.agreement import agreement_on
from frolic.train.tasks.component import (
    STORED,
    ModelSection,
    Store,
    component_spec,
    load_weights,
    part_marks,
    read_component,
    sections,
    weights_mark,
    write_component,
)
from frolic.train.tasks.folder import Card, complete
from frolic.train.tasks.scenes import Data, Encode, scene_latents, text_encoder

PREVIEW_PROMPTS = (
    "a red panda", "a dog", "a cat on grass", "a strawberry", "a hamburger", "an airplane in the sky", "a blue car",
    "a guitar", "a fox on a blue background", "a pizza and a banana", "three apples", "a robot on a yellow background",
    "a fish to the left of a cat", "flat icon of a dog", "two roses", "a rocket in the night sky",
)  # fmt: skip


class Settings(FlowSettings):
    """``tokens``: longest caption. ``agreement``: who tells it what the pictures show that it foresees. ``kept``: of
    the weights that the run begins with (``trainer.init_from``, an exported folder), the share in the finished ones,
    which is good for what the run had little of (Wortsman et al. 2022, arXiv 2109.01903). ``card``: how the finished
    model presents itself. ``store``: what the finished weights are kept in."""

    tokens: int = 24
    agreement: FlowAgreementSettings | None = None
    kept: Fraction = 0.0
    card: Card
    store: Store = "bfloat16"


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
    autoencoder, texts = shipped_or_path(data.autoencoder), shipped_or_path(data.text)
    vae: Any
    vae_config, vae = read_component(model.family, "vae", autoencoder / "vae")
    encode = text_encoder(model.family, texts, settings.tokens, device)
    sizes = data.sizes(vae_config.stride)
    parts = part_marks(autoencoder, texts)
    made = scene_latents(data, sizes, settings.tokens, vae.to(device), encode, parts, device, recipe.trainer.prefetch)
    null_text, null_mask = encode([""])
    source: Source = made.source
    marks, agreement = dict(made.marks), None
    if settings.agreement is not None:
        source, agreement = agreement_on(made, data, settings.agreement, encode, settings.tokens, device)
        marks["agreement"] = weights_mark(settings.agreement.folder)

    def draw(net: nn.Module) -> Tensor:
        height, width = data.commonest(vae_config.stride)
        shape = (vae_config.latent_channels, height // vae_config.stride, width // vae_config.stride)
        pixels: Tensor = vae.decode(sample(net, encode, settings, shape) / vae_config.scaling_factor)
        return pixels.float()

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        learned = modules["transformer"]
        if begun is not None:
            learned = mixed(spec, config, learned, begun / "transformer", settings.kept)
        write_component(spec, "transformer", config, learned, folder / "transformer", STORED[settings.store])
        complete(folder, model.family, settings.card, settings.shift, settings.tokens, autoencoder, texts)

    begun = begun_with(recipe, settings.kept, ["transformer"], marks)

    return Job(
        objective=Flow(transformer, settings, null_text, null_mask, draw, agreement),
        source=source,
        export=export,
        warm_start=lambda folder: load_weights(spec, config, transformer, folder / "transformer"),
        inputs=marks,
    )


def begun_with(recipe: Recipe, kept: float, parts: Sequence[str], marks: dict[str, str]) -> Path | None:
    """The exported folder whose weights of these ``parts`` a finished run is averaged with; ``marks`` get what they
    are, so that a run that goes on later ends with the same. None where nothing is ``kept``.

    Raises:
        ConfigError: there is no such folder.
    """
    if not kept:
        return None
    begun = None if recipe.trainer.init_from is None else shipped_or_path(recipe.trainer.init_from)
    if begun is None or not all((begun / part).is_dir() for part in parts):
        raise ConfigError("job.kept: there is nothing to keep; name an exported folder with trainer.init_from.")
    marks["what it began with"] = " ".join(weights_mark(begun / part) for part in parts)
    return begun


@torch.no_grad()
def mixed(spec: ComponentSpec, config: Any, learned: nn.Module, folder: Path, kept: float) -> nn.Module:
    """What is in the component's ``folder``, with the mean of its weights and ``learned`` ones; ``kept`` is its own
    share."""
    begun = spec.build(config)
    load_weights(spec, config, begun, folder)
    for (name, mine), theirs in zip(begun.named_parameters(), learned.parameters(), strict=True):
        assert mine.shape == theirs.shape, name
        mine.lerp_(theirs.to(mine), 1 - kept)
    return begun


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


def sample(net: Any, encode: Encode, settings: Settings, shape: tuple[int, ...]) -> Tensor:
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
