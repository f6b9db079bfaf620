"""``kind: sprint``: distil a SANA model into one that draws in one to four steps.

B batch, S tokens, E text width, P side of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import model_validator
from torch import Tensor, nn

from frolic.config import Positive, Recipe, Section
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
from frolic.train.objectives.agreement import Agreement, AgreementSettings
from frolic.train.objectives.base import Source
from frolic.train.objectives.consistency import Consistency, ConsistencySettings, Stepped
from frolic.train.tasks import lora
from frolic.train.tasks.agreement import agreement_on
from frolic.train.tasks.base import Base, autocast, drawn, open_base, set_aside
from frolic.train.tasks.component import STORED, Store, load_weights, part_marks, weights_mark, write_component
from frolic.train.tasks.flow import PREVIEW_PROMPTS
from frolic.train.tasks.folder import FewCard, complete_few
from frolic.train.tasks.scenes import Scenes, scene_latents, text_encoder
from frolic.train.tasks.student import student_config, student_of


class Settings(ConsistencySettings):
    """``adversarial``: what else the student learns from, or nothing; ``agreement``: and beside that. ``card``: how the
    finished model presents itself. ``previews``: prompts that are drawn; by default the first captions of a folder.
    ``recompute``: less memory, more work. ``store``: what the finished weights are kept in."""

    adversarial: AdversarialSettings | None = None
    agreement: AgreementSettings | None = None
    card: FewCard
    previews: list[str] = []
    recompute: bool = False
    store: Store = "bfloat16"

    @model_validator(mode="after")
    def _pictures_to_agree_on(self) -> Settings:
        if self.agreement is not None and self.adversarial is None:
            raise ValueError("agreement is of the pictures that heads judge too; give adversarial with it")
        return self


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
    if settings.agreement is not None and data.scenes is None:
        raise ConfigError("job.agreement: what is told apart are the captions of scenes; give data.scenes.")
    device = resolve_device(recipe.trainer.device)
    # It teaches; what it has besides a transformer goes into the finished model as it is.
    plan, pipeline = open_base(model, device, recipe.trainer.precision)
    teacher = pipeline.transformer
    _check_teacher(teacher, settings, model.base)
    if data.scenes is not None:
        lessons = _of_scenes(pipeline, plan, data.scenes, settings, recipe.trainer.prefetch)
    else:
        lessons = _of_folder(pipeline, data, settings)
    width = lessons.tokens
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
            return torch.stack([drawn(pipeline, prompt, *lessons.size) for prompt in lessons.shown])

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        dtype = STORED[settings.store]
        write_component(spec, "transformer", config, modules["transformer"], folder / "transformer", dtype)
        complete_few(folder, plan.path, settings.card)

    null_text, null_mask = null.embeds[:, :width].float().cpu(), null.mask[:, :width].cpu()
    objective = Consistency(student, teacher, settings, null_text, null_mask, draw)
    if settings.adversarial is not None:
        objective = Adversarial(
            student, teacher, settings, settings.adversarial, null_text, null_mask, draw, lessons.agreement
        )
    return Job(
        objective=objective,
        source=Stepped(lessons.source),
        export=export,
        warm_start=lambda folder: load_weights(spec, config, student, folder / "transformer"),
        inputs={"teacher": pipeline.card.hash, **lessons.marks},
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


@dataclass(frozen=True)
class _Lessons:
    """``source`` of latents and text that is ``tokens`` wide, the ``marks`` of what they were made from besides the
    teacher; the prompts that are ``shown``, at a height and width; and what else tells the student of its pictures."""

    source: Source
    marks: dict[str, str]
    tokens: int
    shown: Sequence[str]
    size: tuple[int, int]
    agreement: Agreement | None = None


def _of_scenes(pipeline: Pipeline, plan: BuildPlan, data: Scenes, settings: Settings, prefetch: int) -> _Lessons:
    tokens, device = plan.defaults.max_tokens, pipeline.device
    sizes = data.sizes(pipeline.vae.config.stride)
    encode = text_encoder(plan.family.name, plan.path, tokens, device)
    parts = part_marks(plan.path, plan.path)
    made = scene_latents(data, sizes, tokens, pipeline.vae.float(), encode, parts, device, prefetch)
    most = data.commonest(pipeline.vae.config.stride)
    marks = {"training set": made.marks["training set"]}
    lessons = _Lessons(made.source, marks, tokens, settings.previews or PREVIEW_PROMPTS, most)
    if settings.agreement is None:
        return lessons
    told, agreement = agreement_on(made, data, settings.agreement, encode, tokens, device)
    marks["agreement"] = weights_mark(settings.agreement.folder)
    return replace(lessons, source=told, agreement=agreement, marks=marks)


def _of_folder(pipeline: Pipeline, data: Data, settings: Settings) -> _Lessons:
    assert data.folder is not None and data.side is not None
    entries = read_entries(Path(data.folder).expanduser())
    marks = {"training set": mark_of(entries)}
    key = [pipeline.card.hash, *marks.values(), str(pipeline.dtype).removeprefix("torch."), str(data.side)]
    source = lora.encode(pipeline, entries, lora.Data(folder=data.folder, side=data.side, cache=data.cache), key)
    shown = settings.previews or list(dict.fromkeys(entry.caption for entry in entries))[:4]
    return _Lessons(source, marks, source.captions.tokens, shown, (data.side, data.side))


JOB = JobKind(build, {"job": Settings, "data": Data, "model": Base})
