"""``kind: video``: train a transformer of clips, or its two experts, on cached latents and text.

B batch, C latent channels, T frames, t/h/w latent frames, height and width, S tokens, E text width, P side of a frame.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from frolic.config import Fraction, Recipe
from frolic.errors import ConfigError
from frolic.pipeline.parts import Resident
from frolic.plan.find import shipped_or_path
from frolic.sampling.guidance import experts
from frolic.sampling.noise import sample_noise
from frolic.sampling.solvers import SAMPLERS
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.agreement import Agreement
from frolic.train.objectives.base import Source
from frolic.train.objectives.experts import ExpertsFlow
from frolic.train.objectives.flow import Flow, FlowAgreementSettings, FlowSettings
from frolic.train.objectives.reconstruction import strips
from frolic.train.painter import guided
from frolic.train.tasks.agreement import agreement_on
from frolic.train.tasks.clips import Clips, clip_latents
from frolic.train.tasks.component import (
    STORED,
    ModelSection,
    Store,
    component_spec,
    load_between,
    load_weights,
    part_marks,
    read_component,
    sections,
    weights_mark,
    write_component,
)
from frolic.train.tasks.flow import begun_with, mixed, start_small
from frolic.train.tasks.folder import Card, complete
from frolic.train.tasks.scenes import text_encoder

_PREVIEW_PROMPTS = (
    "a dog moving to the left", "a pizza spinning", "a red panda bouncing", "a rocket moving up", "an apple falling",
    "a guitar growing on a blue background", "a cat moving in a circle", "a fish moving to the right",
)  # fmt: skip

EXPERTS = ("transformer", "transformer_2")


class Settings(FlowSettings):
    """``tokens``: longest caption. ``card``: how the finished model presents itself. ``boundary``: the noise level at
    which two experts meet; without it there is one model. ``train``: both experts in one run, or one of them, whose
    partner is then that of ``other``, an exported folder. ``agreement``: who tells them what the clips show that they
    foresee (an encoder of ``kind: clip-contrastive``). ``kept`` as in ``kind: flow``. ``ends``: ``new`` takes nothing
    from ``trainer.init_from`` but what does not depend on the autoencoder, so that a model goes on with another one.
    ``store``: what the finished weights are kept in; float8 (e4m3) is half as large, and every reader casts it to what
    it computes in."""

    tokens: int = 24
    card: Card
    boundary: Annotated[float, Field(gt=0, lt=1)] | None = None
    train: Literal["both", "high", "low"] = "both"
    other: str | None = None
    agreement: FlowAgreementSettings | None = None
    kept: Fraction = 0.0
    ends: Literal["kept", "new"] = "kept"
    store: Store = "bfloat16"


def build(recipe: Recipe) -> Job:
    settings, data, model = sections(recipe, Settings, Clips)
    settings = _with_levels(settings)
    spec = component_spec(model.family, "transformer")
    config = spec.configure(model.config)
    torch.manual_seed(recipe.trainer.seed)
    first = spec.build(config)
    start_small(first)
    # Alike at first: what one learns before it has seen much is of use to the other.
    nets = {EXPERTS[0]: first} | ({} if settings.boundary is None else {EXPERTS[1]: copy.deepcopy(first)})
    device = resolve_device(recipe.trainer.device)
    autoencoder, texts = shipped_or_path(data.autoencoder), shipped_or_path(data.text)
    vae: Any
    vae_config, vae = read_component(model.family, "vae", autoencoder / "vae")
    data.check(vae)
    encode = text_encoder(model.family, texts, settings.tokens, device)
    parts, prefetch = part_marks(autoencoder, texts), recipe.trainer.prefetch
    made = clip_latents(data, settings.tokens, vae.to(device), encode, parts, device, prefetch)
    source: Source = made.source
    marks, agreement = dict(made.marks), None
    if settings.agreement is not None:
        source, agreement = agreement_on(made, data, settings.agreement, encode, settings.tokens, device)
        marks["agreement"] = weights_mark(settings.agreement.folder)
    null_text, null_mask = encode([""])
    side, count = data.side // vae_config.stride, vae.latent_frames(data.frames)
    shape = (vae_config.latent_channels, count, side, side)

    def draw(modules: Mapping[str, nn.Module]) -> Tensor:
        held = {**nets, **modules}
        z = sample(held, encode, settings, shape)
        return strips(torch.cat([*vae.stream_decode(vae.unscaled(z))], 2).float())

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        for name in nets:
            if name in modules:
                learned = modules[name]
                if begun is not None:
                    learned = mixed(spec, config, learned, begun / name, settings.kept)
                write_component(spec, "transformer", config, learned, folder / name, STORED[settings.store])
            elif settings.other is not None:
                _copy(shipped_or_path(settings.other) / name, folder / name)
        card = settings.card.model_copy(update={"frames": data.frames})
        complete(
            folder,
            model.family,
            card,
            settings.shift,
            settings.tokens,
            autoencoder,
            texts,
            settings.boundary,
            settings.first > 0,
        )

    def warm_start(folder: Path) -> None:
        for name, net in nets.items():
            if name == partner:
                continue  # it is what it is
            # Two that begin as the one that was trained for all noise levels.
            part = folder / (name if (folder / name).is_dir() else EXPERTS[0])
            if settings.ends == "new":
                load_between(model.family, net, part)
            else:
                load_weights(spec, config, net, part)

    trained = {"both": [*nets], "high": [EXPERTS[0]], "low": [EXPERTS[1]]}[settings.train]
    if settings.kept and settings.ends == "new":
        raise ConfigError("job.kept: weights of another autoencoder are not kept; leave it out, or job.ends.")
    begun = begun_with(recipe, settings.kept, trained, marks)
    partner = {"high": EXPERTS[1], "low": EXPERTS[0]}.get(settings.train)
    if partner is not None and settings.other is not None:
        # What is drawn while one is trained is drawn by both.
        load_weights(spec, config, nets[partner], shipped_or_path(settings.other) / partner)
        nets[partner].to(device).requires_grad_(False)

    objective: Flow
    if settings.train == "both" and settings.boundary is not None:
        second = nets[EXPERTS[1]]
        objective = ExpertsFlow(first, second, settings.boundary, settings, null_text, null_mask, draw, agreement)
    else:
        (name,) = trained
        objective = _One(name, nets[name], settings, null_text, null_mask, draw, agreement)
    return Job(objective=objective, source=source, export=export, warm_start=warm_start, inputs=marks)


class _One(Flow):
    """The objective of one expert, under the name of its part."""

    def __init__(
        self,
        name: str,
        net: nn.Module,
        settings: Settings,
        text: Tensor,
        mask: Tensor,
        draw: Any,
        agreement: Agreement | None,
    ) -> None:
        super().__init__(net, settings, text, mask, agreement=agreement)
        self.name, self.show = name, draw

    def modules(self) -> Mapping[str, nn.Module]:
        return {self.name: self.transformer}

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        shown: Tensor = self.show(modules)
        return shown


def _with_levels(settings: Settings) -> Settings:
    """With the noise levels of the expert that is trained alone."""
    if settings.train == "both":
        if settings.other is not None:
            raise ConfigError("job.other is the partner of one expert that is trained alone; leave it out.")
        return settings
    if settings.boundary is None:
        raise ConfigError(
            f"job.train is {settings.train!r}, but there is one model; give job.boundary, or leave it out."
        )
    if settings.other is None:
        raise ConfigError("job.other: name the exported folder that has the other expert.")
    levels = (settings.boundary, 1.0) if settings.train == "high" else (0.0, settings.boundary)
    return settings.model_copy(update={"levels": levels})


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target)


def sample(nets: Mapping[str, nn.Module], encode: Any, settings: Settings, shape: tuple[int, ...]) -> Tensor:
    """Latents of the fixed preview prompts, each from its own fixed noise."""
    device = next(nets[EXPERTS[0]].parameters()).device
    text, null = (tuple(t.to(device) for t in encode(prompts)) for prompts in (_PREVIEW_PROMPTS, [""]))
    sampler = SAMPLERS[settings.card.sampler]
    schedule = sampler.schedule()

    scale = settings.card.guidance_scale
    high, *low = [guided(Resident(net).get, text, null, scale, schedule) for net in nets.values()]
    denoise = experts(high, low[0], settings.boundary or 0.0, schedule.timesteps) if low else high
    x = sample_noise(shape, 0, range(len(_PREVIEW_PROMPTS))).to(device)
    for step in sampler.solve(denoise, x, schedule.sigmas(settings.card.steps, settings.shift)):
        x = step.x
    return x


JOB = JobKind(build, {"job": Settings, "data": Clips, "model": ModelSection})
