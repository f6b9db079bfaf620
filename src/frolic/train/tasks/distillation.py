"""``kind: distillation``: a tokenizer and a small text encoder from a sentence encoder.

K sentences, S tokens, E the teacher's width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from frolic.config import Recipe, Section
from frolic.data.starter.fetch import home
from frolic.data.starter.packages import TEXT_TEACHER
from frolic.data.starter.teacher import WIDTH, embed
from frolic.data.starter.texts import sentences, train_tokenizer
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.distillation import Distillation
from frolic.train.tasks.cache import cached
from frolic.train.tasks.component import (
    ModelSection,
    component_spec,
    load_weights,
    open_pack,
    sections,
    write_component,
)
from frolic.train.tasks.tokenizer import write_tokenizer


class Settings(Section):
    """``tokens``: longest sentence; longer ones are cut."""

    tokens: int = 16


class Data(Section):
    """``pack`` as in reconstruction; ``cache`` holds the teacher's package and its embeddings."""

    pack: str | None = None
    cache: str | None = None


@dataclass(frozen=True)
class Sentences:
    """``{"ids": [B, S], "mask": [B, S], "teacher": [B, E]}`` of random sentences."""

    ids: Tensor
    mask: Tensor
    teacher: Tensor

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(self.ids), (size,), generator=generator)
        return {"ids": self.ids[rows], "mask": self.mask[rows], "teacher": self.teacher[rows]}


def build(recipe: Recipe) -> Job:
    settings, data, model = sections(recipe, Settings, Data)
    spec = component_spec(model.family, "text_encoder")
    config = spec.configure(model.config)
    texts = sentences(open_pack(data.pack)[1])
    tokenizer = train_tokenizer(texts, config.vocabulary)
    cache = Path(data.cache).expanduser() if data.cache else home()
    teacher = cached(
        cache / "teacher", [TEXT_TEACHER.integrity, *texts], lambda: {"embeddings": embed(texts, cache / "npm")}
    )["embeddings"]
    tokenizer.enable_truncation(settings.tokens)
    tokenizer.enable_padding(length=settings.tokens)
    encodings = tokenizer.encode_batch(texts)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    torch.manual_seed(recipe.trainer.seed)
    encoder = spec.build(config)
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            # torch's default for an embedding is far larger than a normalised residual stream wants.
            nn.init.normal_(parameter, std=0.06)

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        write_component(spec, "text_encoder", config, modules["text_encoder"], folder / "text_encoder", torch.bfloat16)
        write_tokenizer(tokenizer, folder / "tokenizer")

    return Job(
        objective=Distillation(encoder, config.width, WIDTH),
        source=Sentences(
            torch.tensor([e.ids for e in encodings]),
            torch.tensor([e.attention_mask for e in encodings], dtype=torch.bool),
            teacher,
        ),
        export=export,
        warm_start=lambda folder: load_weights(spec, config, encoder, folder / "text_encoder"),
        inputs={"training set": hashlib.sha256("\0".join(texts).encode()).hexdigest()},
    )


JOB = JobKind(build, {"job": Settings, "data": Data, "model": ModelSection})
