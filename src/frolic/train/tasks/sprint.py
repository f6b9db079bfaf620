"""``kind: sprint``: distil a SANA model into one that draws in one to four steps.

B batch, S tokens, E text width, P side of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import model_validator
from torch import Tensor, nn

from frolic.config import Positive, Recipe, Section
from frolic.data.cached import CaptionedLatents
from frolic.data.folder import mark_of, read_entries
from frolic.errors import ConfigError
from frolic.models.registry import families
from frolic.models.sana.model import SanaTransformer
from frolic.pipeline import Pipeline
from frolic.plan import BuildPlan
from frolic.request import FEW
from frolic.train.checkpointing import recompute
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.adversarial import Adversarial, AdversarialSettings
from frolic.train.objectives.consistency import Consistency, ConsistencySettings, Stepped
from frolic.train.tasks import lora
from frolic.train.tasks.base import Base, autocast, drawn, open_base, set_aside
from frolic.train.tasks.component import STORED, Store, load_weights, weights_mark, write_component
from frolic.train.tasks.flow import PREVIEW_PROMPTS, Scenes, scene_latents, text_encoder
from frolic.train.tasks.folder import FewCard, complete_few
from frolic.train.tasks.student import student_config, student_of


class Settings(ConsistencySettings):
    """``adversarial``: what else the student learns from, or nothing. ``card``: how the finished model presents itself.
    ``previews``: prompts that are drawn; by default the first captions of a folder. ``recompute``: less memory, more
    work. ``store``: what the finished weights are kept in."""

    adversarial: AdversarialSettings | None = None
    card: FewCard
    previews: list[str] = []
    recompute: bool = False
    store: Store = "bfloat16"


class Data(Section):
    """Either ``scenes``, composed of sprites as in ``kind: flow``, or a ``folder`` of captioned pictures of about
    ``side`` squared pixels as in ``kind: lora``, whose latents and text are kept in ``cache``."""

    scenes: Scenes | None = None
    folder: str | None = None
    side: Positive | None = None
    cache: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Data:
        if (self.scenes is None) == (self.folder is None):
            raise ValueError("give either scenes or a folder of pictures")
        if (self.folder is None) != (self.side is None):
            raise ValueError("side is of a folder's pictures; give both or neither")
        if self.scenes is not None and self.cache is not None:
            raise ValueError("give the cache of scenes with them, as scenes.cache")
        return self


def build(recipe: Recipe) -> Job:
    settings, data = recipe.section("job", Settings), recipe.section("data", Data)
    model = recipe.section("model", Base)
    device = resolve_device(recipe.trainer.device)
    # It teaches; what it has besides a transformer goes into the finished model as it is.
    plan, pipeline = open_base(model, device, recipe.trainer.precision)
    teacher = pipeline.transformer
    _check_teacher(teacher, settings, model.base)
    source, marks, width, shown, size = _data(pipeline, plan, data, settings, recipe)
    null = pipeline.text.encode("", negative=True)
    set_aside(pipeline)
    pipeline.defaults = replace(
        pipeline.defaults, sampler=FEW, steps=settings.card.steps, guidance_scale=settings.card.guidance_scale
    )

    torch.manual_seed(recipe.trainer.seed)
    student = student_of(teacher)
    spec = families()[pipeline.card.family].components["transformer"]
    config = student_config(teacher.config)
    if settings.recompute:
        recompute(student.blocks)
    elif spec.fuse and device.type == "cpu" and not recipe.trainer.compile:
        spec.fuse(student)

    def draw(net: nn.Module) -> Tensor:
        pipeline.transformer = net
        with autocast(pipeline):
            return torch.stack([drawn(pipeline, prompt, *size) for prompt in shown])

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        dtype = STORED[settings.store]
        write_component(spec, "transformer", config, modules["transformer"], folder / "transformer", dtype)
        complete_few(folder, plan.path, settings.card)

    null_text, null_mask = null.embeds[:, :width].float().cpu(), null.mask[:, :width].cpu()
    objective = Consistency(student, teacher, settings, null_text, null_mask, draw)
    if settings.adversarial is not None:
        objective = Adversarial(student, teacher, settings, settings.adversarial, null_text, null_mask, draw)
    return Job(
        objective=objective,
        source=Stepped(source),
        export=export,
        warm_start=lambda folder: load_weights(spec, config, student, folder / "transformer"),
        inputs={"teacher": pipeline.card.hash, **marks},
    )


def _check_teacher(teacher: nn.Module, settings: Settings, base: str) -> None:
    """Raises:
    ConfigError: listing why it cannot teach as asked.
    """
    wrong = []
    if not isinstance(teacher, SanaTransformer) or teacher.config.guidance_embeds:
        wrong.append(f"model.base: {base} is no model that others are made from; name a SANA model, not Sprint")
    elif settings.adversarial is not None:
        blocks, layers = settings.adversarial.blocks, teacher.config.layers
        beyond = [block for block in blocks if block >= layers]
        if beyond:
            wrong.append(f"job.adversarial.blocks: {base} has no block {beyond}; it has 0 to {layers - 1}")
        if len({*blocks}) < len(blocks):
            wrong.append(f"job.adversarial.blocks: {blocks} names a block twice")
    if wrong:
        raise ConfigError(f"{'; '.join(wrong)}.")


def _data(
    pipeline: Pipeline, plan: BuildPlan, data: Data, settings: Settings, recipe: Recipe
) -> tuple[CaptionedLatents, dict[str, str], int, Sequence[str], tuple[int, int]]:
    """Latents and text, the marks of what they were made from besides the teacher, the width of the text, and the
    prompts and the height and width of previews."""
    if data.scenes is not None:
        tokens = plan.defaults.max_tokens
        sizes = data.scenes.sizes(pipeline.vae.config.stride)
        encode = text_encoder(plan.family.name, plan.path, tokens, pipeline.device)
        parts = {
            "autoencoder": weights_mark(plan.path / "vae"),
            "text encoder": weights_mark(plan.path / "text_encoder"),
        }
        vae = pipeline.vae.float()
        source, marks = scene_latents(
            data.scenes, sizes, tokens, vae, encode, parts, pipeline.device, recipe.trainer.prefetch
        )
        most = max(sizes, key=lambda size: sizes[size])
        return source, {"training set": marks["training set"]}, tokens, settings.previews or PREVIEW_PROMPTS, most
    assert data.folder is not None and data.side is not None
    entries = read_entries(Path(data.folder).expanduser())
    marks = {"training set": mark_of(entries)}
    key = [pipeline.card.hash, *marks.values(), str(pipeline.dtype).removeprefix("torch."), str(data.side)]
    source = lora.encode(pipeline, entries, lora.Data(folder=data.folder, side=data.side, cache=data.cache), key)
    shown = settings.previews or list(dict.fromkeys(entry.caption for entry in entries))[:4]
    return source, marks, source.captions.tokens, shown, (data.side, data.side)


JOB = JobKind(build, {"job": Settings, "data": Data, "model": Base})
