"""``kind: layout``: teach a text encoder to tell where the things of a prompt are, from scenes without their pictures.

N captions, M scenes, S tokens, K things.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from frolic.config import Positive, Recipe, Section
from frolic.data.compose import PALETTE
from frolic.data.scenes import Scene, scenes
from frolic.io.tokenizer import Tokenizer
from frolic.plan.find import shipped_or_path
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.layout import Layout, PlaceReader
from frolic.train.tasks.component import (
    STORED,
    Mix,
    Store,
    component_spec,
    load_weights,
    open_pack,
    pack_mark,
    read_component,
    training_mix,
    weights_mark,
    write_component,
)

_FAMILY = "sana"
_COLOURS = ("", *PALETTE)


class Settings(Section):
    """``anchor``: weight of staying what it was. ``tokens``: longest caption; longer ones are cut. ``store``: what the
    finished weights are kept in."""

    anchor: Annotated[float, Field(ge=0)] = 10.0
    tokens: Positive = 24
    store: Store = "bfloat16"


class Data(Section):
    """``text``: a folder with the ``text_encoder`` and ``tokenizer`` to begin with, or a model that ships. ``scenes``
    of the concepts in ``pack``, in the shares of ``mix``, lend their captions and places; ``seed`` names the set."""

    text: str
    pack: str | None = None
    scenes: Positive = 60000
    seed: int = 1
    mix: Mix = Field(default_factory=training_mix)


@dataclass(frozen=True)
class Told:
    """Captions with what is where: ``ids`` [N, S] (int32) padded to the right, ``sizes`` [N], the ``scene`` [N] of
    each; of scenes ``things`` and ``colours`` [M, K], -1 where there is none, and ``places`` [M, K, 2]."""

    ids: Tensor
    sizes: Tensor
    scene: Tensor
    things: Tensor
    colours: Tensor
    places: Tensor

    @classmethod
    def of(cls, shown: Sequence[Scene], tokenizer: Tokenizer, tokens: int) -> Told:
        captions = [caption for scene in shown for caption in scene.captions]
        ids, mask = tokenizer.encode(captions, tokens)
        most = max(len(scene.things) for scene in shown)
        things = torch.full((len(shown), most), -1)
        colours, places = things.clone(), torch.zeros(len(shown), most, 2)
        for row, scene in enumerate(shown):
            for k, thing in enumerate(scene.things):
                things[row, k], colours[row, k] = thing.concept, _COLOURS.index(thing.said)
                places[row, k] = torch.tensor((thing.x, thing.y))
        scene_of = torch.tensor([row for row, scene in enumerate(shown) for _ in scene.captions])
        return cls(ids.int(), mask.sum(dim=1), scene_of, things, colours, places)

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(self.ids), (size,), generator=generator)
        sizes, of = self.sizes[rows], self.scene[rows]
        longest = int(sizes.max())
        return {
            "ids": self.ids[rows, :longest].long(),
            "mask": torch.arange(longest) < sizes[:, None],
            "things": self.things[of],
            "colours": self.colours[of],
            "places": self.places[of],
        }


def build(recipe: Recipe) -> Job:
    settings, data = recipe.section("job", Settings), recipe.section("data", Data)
    text = shipped_or_path(data.text)
    config, encoder = read_component(_FAMILY, "text_encoder", text / "text_encoder")
    spec = component_spec(_FAMILY, "text_encoder")
    tokenizer = Tokenizer(text / "tokenizer" / "tokenizer.json")
    sprites, concepts = open_pack(data.pack)
    told = Told.of(scenes(concepts, data.scenes, data.seed, data.mix), tokenizer, settings.tokens)
    torch.manual_seed(recipe.trainer.seed)
    reader = PlaceReader(config.width, len(concepts), len(_COLOURS))

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        dtype = STORED[settings.store]
        write_component(spec, "text_encoder", config, modules["text_encoder"], folder / "text_encoder", dtype)
        shutil.copytree(text / "tokenizer", folder / "tokenizer")

    return Job(
        # Moved here, because of what it was like the objective keeps a copy that the trainer does not know.
        objective=Layout(encoder.to(resolve_device(recipe.trainer.device)), reader, settings.anchor),
        source=told,
        export=export,
        warm_start=lambda folder: load_weights(spec, config, encoder, folder / "text_encoder"),
        inputs={"training set": pack_mark(sprites, concepts), "text encoder": weights_mark(text / "text_encoder")},
    )


JOB = JobKind(build, {"job": Settings, "data": Data})
