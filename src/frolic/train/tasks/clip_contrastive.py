"""``kind: clip-contrastive``: train a dual encoder of the latents of clips and captions, as ``latent-contrastive``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from frolic.config import Recipe
from frolic.data.captioned import GROUP, UNSEEN, apart, grouped
from frolic.data.motion import clips, meaning
from frolic.plan.find import shipped_or_path
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.tasks.clips import Clips, clip_latents, latents_of
from frolic.train.tasks.component import part_marks, read_component
from frolic.train.tasks.latent_contrastive import Model, Settings, contrastive_job
from frolic.train.tasks.scenes import text_encoder


def build(recipe: Recipe) -> Job:
    settings, data = recipe.section("job", Settings), recipe.section("data", Clips)
    device, prefetch = resolve_device(recipe.trainer.device), recipe.trainer.prefetch
    autoencoder, texts = shipped_or_path(data.autoencoder), shipped_or_path(data.text)
    vae: Any
    _, vae = read_component("wan", "vae", autoencoder / "vae")
    encode = text_encoder("wan", texts, settings.tokens, device)
    parts = part_marks(autoencoder, texts)
    made = clip_latents(data, settings.tokens, vae.to(device), encode, parts, device, prefetch)

    def held() -> list[tuple[Tensor, list[str]]]:
        shown = clips(made.cast, 2 * settings.held_out * GROUP, UNSEEN, data.mix, loops=made.loops)
        some = apart(shown, lambda clip: meaning(clip, made.cast.concepts), settings.held_out)
        z = torch.cat([*latents_of(some, data, made.sprites, made.films, vae, device, prefetch)]).float()
        captions = [clip.captions[0] for clip in some]
        return [*zip(z.split(GROUP), map(list, grouped(captions)), strict=True)]

    frames = vae.latent_frames(data.frames)
    return contrastive_job(recipe, settings, made, data, vae.config.latent_channels, frames, encode, held)


JOB = JobKind(build, {"job": Settings, "data": Clips, "model": Model})
