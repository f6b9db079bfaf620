"""``kind: reconstruction``: train an autoencoder on composed pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from frolic.config import Positive, Recipe, Section
from frolic.data.clips import ComposedClips
from frolic.data.pictures import ComposedPictures
from frolic.data.scenes import Cast
from frolic.io.home import home
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.reconstruction import Reconstruction, ReconstructionWeights
from frolic.train.perceptual import load_lpips
from frolic.train.tasks.component import (
    STORED,
    Mix,
    ModelSection,
    Store,
    component_spec,
    load_weights,
    open_loops,
    open_pack,
    sections,
    training_mix,
    write_component,
)
from frolic.train.tasks.inflate import forget_time


class Settings(ReconstructionWeights):
    """``decoder_only`` keeps the latents as they are. ``store``: what the finished weights are kept in."""

    edges: float = 0.5
    decoder_only: bool = False
    store: Store = "bfloat16"


class Data(Section):
    """``pack``: the packed sprites' folder, where ``frolic data starter`` wrote it if not set. ``side`` in pixels.
    ``mix``: the shares of the kinds of scenes. ``frames``: clips of so many, of cut-outs that move, instead of
    scenes, and of what is in ``animated``, where ``frolic data starter-video`` wrote it if not set; ``none`` is none of
    those.
    """

    pack: str | None = None
    side: Positive
    frames: Positive | None = None
    animated: str | None = None
    mix: Mix = Field(default_factory=training_mix)
    previews: Positive = 16


def build(recipe: Recipe) -> Job:
    settings, data, model = sections(recipe, Settings, Data)
    spec = component_spec(model.family, "vae")
    config = spec.configure(model.config)
    torch.manual_seed(recipe.trainer.seed)
    autoencoder: Any = spec.build(config)
    forget_time(autoencoder)
    if settings.decoder_only:
        for name in ("encoder", "quant_conv"):
            if (part := getattr(autoencoder, name, None)) is not None:
                part.requires_grad_(False)
    sprites, concepts = open_pack(data.pack)
    source = (
        ComposedPictures(sprites, Cast(concepts), data.side, data.mix)
        if data.frames is None
        else ComposedClips(sprites, Cast(concepts), data.side, data.frames, *open_loops(data.animated))
    )
    shown = source.pictures(data.previews, torch.Generator().manual_seed(0))
    device = resolve_device(recipe.trainer.device)
    lpips = load_lpips(home() / "lpips-vgg16.safetensors").to(device) if settings.perceptual else None

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        write_component(spec, "vae", config, modules["vae"], folder / "vae", STORED[settings.store])

    return Job(
        objective=Reconstruction(autoencoder, settings, lpips, shown.to(device)),
        source=source,
        export=export,
        warm_start=lambda folder: load_weights(spec, config, autoencoder, folder / "vae"),
    )


JOB = JobKind(build, {"job": Settings, "data": Data, "model": ModelSection})
