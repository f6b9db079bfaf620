"""``kind: latent-contrastive``: train a dual encoder of latents and captions on composed scenes.

N pictures or clips, C/t/h/w latent channels, frames and sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from frolic.config import Positive, Recipe, Section
from frolic.data.captioned import GROUP, HeldOut
from frolic.data.scenes import Cast, Scene, render
from frolic.data.told import mistakes
from frolic.errors import ConfigError
from frolic.io import safetensors
from frolic.models.dual.latent import LatentDualConfig, LatentDualEncoder
from frolic.plan.find import shipped_or_path
from frolic.rewards.dual import WEIGHTS, write_dual
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.latent_contrastive import LatentContrastive
from frolic.train.tasks.agreement import Captioned, tell_apart
from frolic.train.tasks.component import part_marks, read_component
from frolic.train.tasks.scenes import Composed, Data, Encode, scene_latents, text_encoder

_AT_ONCE = 50

HeldLatents = Callable[[], Sequence[tuple[Tensor, Sequence[str]]]]
"""For each group of what training does not show its latents [N, C, (t,) h, w] in float32, in the scale that models
see, and a caption of each; all in one group differ in meaning."""


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
    device = resolve_device(recipe.trainer.device)
    autoencoder, texts = shipped_or_path(data.autoencoder), shipped_or_path(data.text)
    vae: Any
    _, vae = read_component("sana", "vae", autoencoder / "vae")
    encode = text_encoder("sana", texts, settings.tokens, device)
    parts = part_marks(autoencoder, texts)
    sizes = data.sizes(vae.config.stride)
    most = data.commonest(vae.config.stride)
    made = scene_latents(data, sizes, settings.tokens, vae.to(device), encode, parts, device, recipe.trainer.prefetch)

    def latents(group: Sequence[Scene]) -> Tensor:
        some = (group[k : k + _AT_ONCE] for k in range(0, len(group), _AT_ONCE))
        z = torch.cat([vae.encode(render(made.sprites, each, *most)) for each in some])
        return z.float() * vae.config.scaling_factor

    def held() -> list[tuple[Tensor, list[str]]]:
        vae.to("cpu")
        groups = HeldOut.make(Cast(made.concepts), settings.held_out, data.mix).groups()
        return [(latents(group), [scene.captions[0] for scene in group]) for group in groups]

    return contrastive_job(recipe, settings, made, data, vae.config.latent_channels, 1, encode, held)


def contrastive_job(
    recipe: Recipe,
    settings: Settings,
    made: Captioned,
    data: Composed,
    channels: int,
    frames: int,
    encode: Encode,
    held: HeldLatents,
) -> Job:
    """The job of an encoder of latents of ``channels`` and ``frames`` that is measured on what is ``held`` out.

    Raises:
        ConfigError: the recipe's model does not fit them, or a pass would see too little at a time.
    """
    model = recipe.section("model", Model)
    if recipe.trainer.accumulation > 1:
        raise ConfigError("trainer.accumulation: captions are told apart within a pass; set it and workers to 1.")
    told = tell_apart(made, data, encode, settings.tokens)
    fixed = {"channels": channels, "frames": frames, "text_width": encode([""])[0].shape[2]}
    config = LatentDualConfig.from_json({**fixed, "tokens": settings.tokens, **model.config})
    if any(getattr(config, name) != value for name, value in fixed.items()):
        raise ConfigError(
            f"model.config: {', '.join(fixed)} are those of the latents and of the text encoder, "
            f"{', '.join(map(str, fixed.values()))}; leave them out."
        )
    torch.manual_seed(recipe.trainer.seed)
    encoder = LatentDualEncoder(config)
    of = {"autoencoder": made.marks["autoencoder"]}

    def export(modules: Mapping[str, nn.Module], folder: Any) -> None:
        learned = modules["dual"]
        assert isinstance(learned, LatentDualEncoder)
        facts = measured(learned.to("cpu"), held, encode)
        write_dual(learned, folder, text=made.marks["text encoder"], facts={**of, **facts})

    return Job(
        objective=LatentContrastive(encoder, told.wrongs, settings.noise),
        source=told,
        export=export,
        warm_start=lambda folder: safetensors.fill(encoder, folder / WEIGHTS, fault="does not fit the encoder"),
        inputs=made.marks,
    )


@torch.no_grad()
def measured(encoder: LatentDualEncoder, held: HeldLatents, encode: Encode) -> dict[str, Any]:
    """The share of what is held out whose caption is nearest to it among those of its group, and the share whose
    caption is nearer than a mistaken form of it, of those that have one."""
    total = right = told = asked = 0
    for latents, captions in held():
        shown = encoder.image(latents)
        wrongs, wrong_of = mistakes(captions)
        cosines = shown @ encoder.text(*encode(captions)).T
        total, right = total + len(shown), right + int((cosines.argmax(dim=1) == torch.arange(len(shown))).sum())
        if wrongs:
            against = shown @ encoder.text(*encode(wrongs)).T
            has = wrong_of[:, 0] >= 0
            nearer = cosines.diagonal() > against.gather(1, wrong_of[:, :1].clamp_min(0))[:, 0]
            told, asked = told + int(nearer[has].sum()), asked + int(has.sum())
    return {
        "held_out_scenes": total,
        "captions_each": GROUP,
        "picture_to_caption_top1": round(right / total, 4),
        "mistakes_told": round(told / max(asked, 1), 4),
    }


JOB = JobKind(build, {"job": Settings, "data": Data, "model": Model})
