"""``kind: distillation``: a tokenizer and a small text encoder from a sentence encoder and WordNet.

K sentences, S tokens, W words, U units (see ``data.starter.targets``), E the teacher's width.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import Encoding
from torch import Tensor, nn

from frolic.config import Recipe, Section
from frolic.data.scenes import TRAINING_MIX, scenes
from frolic.data.starter import wordnet
from frolic.data.starter.captions import with_article
from frolic.data.starter.fetch import fetch
from frolic.data.starter.packages import TEXT_TEACHER, WORDNET
from frolic.data.starter.targets import Targets, targets
from frolic.data.starter.teacher import WIDTH, embed, pieces
from frolic.data.starter.texts import nouns, sentences, train_tokenizer, vocabulary
from frolic.io.home import home
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.distillation import Distillation
from frolic.train.tasks.cache import cached
from frolic.train.tasks.component import (
    STORED,
    ModelSection,
    Store,
    component_spec,
    load_weights,
    open_pack,
    sections,
    write_component,
)
from frolic.train.tasks.tokenizer import write_tokenizer

OFTEN = 4
"""How much more often a caption or a common noun by itself is met than a sentence that only shows it in use."""


class Settings(Section):
    """``tokens``: longest sentence; longer ones are cut. ``words``: weight of the words' own targets. ``store``: what
    the finished weights are kept in.

    ``lengths``: sentences of up to so many tokens are sampled together, so that little is computed for padding and a
    compiled run meets few shapes."""

    tokens: int = 24
    words: float = 1.0
    lengths: list[int] = [6, 12]
    store: Store = "bfloat16"


class Data(Section):
    """``pack`` as in reconstruction; ``cache`` holds the fetched packages and the teacher's embeddings.

    ``scenes``: how many scenes, as the image model is trained with, lend their captions; ``composed``: how many
    sentences are made up beside them."""

    pack: str | None = None
    cache: str | None = None
    scenes: int = 30000
    composed: int = 50000


@dataclass(frozen=True)
class Sentences:
    """Batches of random sentences, as ``Distillation`` reads them.

    ``ids`` [K, S] (int32) are padded to the right, ``place`` [K, S] (int8) and ``words`` [K, W] (int32)
    are -1 where there is no word; ``teacher`` [K, E] and ``units`` [U, E]. ``repeats`` [K] is how often a sentence is
    met in the time that one of 1 is met once. ``lengths`` end with S.
    """

    ids: Tensor
    sizes: Tensor
    place: Tensor
    words: Tensor
    teacher: Tensor
    units: Tensor
    repeats: Tensor
    lengths: tuple[int, ...]

    @cached_property
    def groups(self) -> list[tuple[Tensor, int, int]]:
        """By length: the rows of the sentences, with their repeats, the most tokens and the most words."""
        found = []
        for low, high in pairwise((0, *self.lengths)):
            rows = ((self.sizes > low) & (self.sizes <= high)).nonzero()[:, 0]
            if len(rows):
                words = int((self.words[rows] >= 0).sum(dim=1).max())
                found.append((rows.repeat_interleave(self.repeats[rows]), high, max(1, words)))
        return found

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        share = torch.tensor([len(rows) for rows, _, _ in self.groups], dtype=torch.float32)
        rows, tokens, words = self.groups[int(torch.multinomial(share, 1, generator=generator))]
        chosen = rows[torch.randint(len(rows), (size,), generator=generator)]
        units = self.words[chosen, :words].long()
        return {
            "ids": self.ids[chosen, :tokens].long(),
            "mask": torch.arange(tokens) < self.sizes[chosen, None],
            "place": self.place[chosen, :tokens],
            "teacher": self.teacher[chosen],
            "word_targets": self.units[units.clamp(min=0)] * (units >= 0)[..., None],
        }


def source(
    encodings: Sequence[Encoding], goal: Targets, lengths: Sequence[int], tokens: int, often: Sequence[bool]
) -> Sentences:
    """``encodings`` are of the sentences that ``goal`` was made for, cut to ``tokens`` already; ``often`` says which
    of them are repeated."""
    most = max(len(places) for places in goal.places)
    count = len(encodings)
    ids = torch.zeros(count, tokens, dtype=torch.int32)
    place = torch.full((count, tokens), -1, dtype=torch.int8)
    words = torch.full((count, max(1, most)), -1, dtype=torch.int32)
    for row, (encoding, places) in enumerate(zip(encodings, goal.places, strict=True)):
        ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids, dtype=torch.int32)
        words[row, : len(places)] = torch.tensor([unit for _, _, unit in places], dtype=torch.int32)
        ends = [end for _, end, _ in places]
        members = []
        for start, end in encoding.offsets:
            # A token may begin with the space before its word, so its last character says whose it is.
            index = bisect_left(ends, end)
            members.append(index if end > start and index < len(places) and places[index][0] < end else -1)
        place[row, : len(members)] = torch.tensor(members, dtype=torch.int8)
    sizes = torch.tensor([len(encoding.ids) for encoding in encodings])
    steps = sorted({length for length in lengths if length < tokens} | {tokens})
    repeats = torch.tensor([OFTEN if each else 1 for each in often])
    return Sentences(ids, sizes, place, words, goal.sentences, goal.units, repeats, tuple(steps))


def build(recipe: Recipe) -> Job:
    settings, data, model = sections(recipe, Settings, Data)
    spec = component_spec(model.family, "text_encoder")
    config = spec.configure(model.config)
    concepts = open_pack(data.pack)[1]
    cache = Path(data.cache).expanduser() if data.cache else home()
    net = wordnet.read(fetch([WORDNET], cache / "packages")[WORDNET])
    drawn_scenes = scenes(concepts, data.scenes, seed=0, mix=TRAINING_MIX) if data.scenes else []
    spoken = [caption for scene in drawn_scenes for caption in scene.captions]
    words = vocabulary(net, lambda some: pieces(some, cache / "packages"))
    texts = sentences(concepts, net, words, data.composed, spoken)
    often = {caption for concept in concepts for caption in (*concept.captions, *concept.synonyms)}
    often |= {with_article(word) for word in words.common}

    def teach(wanted: Sequence[str]) -> Tensor:
        inputs = [TEXT_TEACHER.integrity, *wanted]
        said = f"the teacher's embeddings of {len(wanted)} sentences"

        def make() -> dict[str, Tensor]:
            return {"embeddings": embed(wanted, cache / "packages").half()}

        return cached(cache / "teacher", inputs, make, said)["embeddings"]

    goal = targets(texts, nouns(concepts), net, teach)
    tokenizer = train_tokenizer(texts, config.vocabulary, words.single)
    tokenizer.enable_truncation(settings.tokens)
    encodings = tokenizer.encode_batch(texts)
    tokenizer.no_truncation()
    torch.manual_seed(recipe.trainer.seed)
    encoder = spec.build(config)
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            # torch's default for an embedding is far larger than a normalised residual stream wants.
            nn.init.normal_(parameter, std=0.06)

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        dtype = STORED[settings.store]
        write_component(spec, "text_encoder", config, modules["text_encoder"], folder / "text_encoder", dtype)
        write_tokenizer(tokenizer, folder / "tokenizer")

    return Job(
        objective=Distillation(encoder, config.width, WIDTH, settings.words),
        source=source(encodings, goal, settings.lengths, settings.tokens, [text in often for text in texts]),
        export=export,
        warm_start=lambda folder: load_weights(spec, config, encoder, folder / "text_encoder"),
        inputs={"training set": hashlib.sha256("\0".join(texts).encode()).hexdigest()},
    )


JOB = JobKind(build, {"job": Settings, "data": Data, "model": ModelSection})
