"""``kind: contrastive``: train the dual encoder on composed pictures and their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from frolic.config import Fraction, Positive, Recipe, Section
from frolic.data.captioned import GROUP, CaptionedPictures, HeldOut, reduced
from frolic.data.scenes import Cast, Scene, render
from frolic.errors import ConfigError
from frolic.io import safetensors
from frolic.models.dual import DualConfig, DualEncoder
from frolic.rewards.dual import WEIGHTS, write_dual
from frolic.rewards.texts import Reader
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.contrastive import Contrastive
from frolic.train.tasks.component import Mix, open_pack, pack_mark, training_mix


class Settings(Section):
    """``noise``: largest deviation of noise on pixels in [0, 1]; ``blur``: the share of pictures seen at half the
    resolution."""

    noise: Annotated[float, Field(ge=0, le=1)] = 0.08
    blur: Fraction = 0.25


class Model(Section):
    """``config``: of the dual encoder, entry by entry. ``text``: the model's folder whose text encoder it reads; the
    shipped starter if not set."""

    config: dict[str, Any] = {}
    text: str | None = None


class Data(Section):
    """``pack`` and ``mix`` as in reconstruction. ``close`` is the share of scenes in which few things are met often,
    ``few`` how many; ``sprites`` the side in pixels that cut-outs are brought to first. ``held_out``: how many hundreds
    of scenes the finished encoder is measured with."""

    pack: str | None = None
    mix: Mix = Field(default_factory=training_mix)
    close: Fraction = 0.5
    few: Annotated[int, Field(ge=4)] = 24
    sprites: Positive = 96
    held_out: Positive = 10


def build(recipe: Recipe) -> Job:
    settings, data = recipe.section("job", Settings), recipe.section("data", Data)
    model = recipe.section("model", Model)
    if recipe.trainer.accumulation > 1:
        raise ConfigError("trainer.accumulation: captions are told apart within a pass; set it and workers to 1.")
    reader = Reader(Path(model.text).expanduser() if model.text else None)
    config = DualConfig.from_json({"text_width": reader.width, **model.config})
    if config.text_width != reader.width:
        raise ConfigError(f"model.config.text_width is {config.text_width}, but the text's states have {reader.width}.")
    sprites, concepts = open_pack(data.pack)
    marks = {"text encoder": reader.mark, "training set": pack_mark(sprites, concepts)}
    small = reduced(sprites, data.sprites)
    cast = Cast(concepts)
    device = resolve_device(recipe.trainer.device)
    reader.encoder.to(device)
    torch.manual_seed(recipe.trainer.seed)
    encoder = DualEncoder(config)

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        learned = modules["dual"]
        assert isinstance(learned, DualEncoder)
        held = HeldOut.make(cast, data.held_out, data.mix)
        found, texts = retrieval(learned, reader, small, held, device)
        facts = {
            "held_out_scenes": len(held.scenes),
            "picture_to_caption_top1": found,
            "caption_to_picture_top1": texts,
        }
        write_dual(learned, folder, text=reader.mark, facts={**facts, "captions_each": GROUP})

    return Job(
        objective=Contrastive(encoder, reader.states, settings.noise, settings.blur),
        source=CaptionedPictures(small, concepts, cast, config.side, data.mix, reader.tokens, data.close, data.few),
        export=export,
        warm_start=lambda folder: safetensors.fill(encoder, folder / WEIGHTS, fault="does not fit the reward"),
        inputs=marks,
    )


@torch.no_grad()
def retrieval(
    encoder: DualEncoder, reader: Reader, sprites: Tensor, held: HeldOut, device: torch.device
) -> tuple[float, float]:
    """Of held-out scenes, the share whose caption is nearest to the picture among those of its group, and the share
    whose picture is nearest to the caption. A scene's first caption is its caption."""
    right = torch.zeros(2)
    for group in held.groups():
        logits = _logits(encoder, reader, sprites, group, device)
        goal = torch.arange(len(group))
        right += torch.tensor([(logits.argmax(dim=axis) == goal).sum().item() for axis in (1, 0)])
    found, texts = (right / len(held.scenes)).tolist()
    return round(found, 4), round(texts, 4)


def _logits(
    encoder: DualEncoder, reader: Reader, sprites: Tensor, group: Sequence[Scene], device: torch.device
) -> Tensor:
    side = encoder.config.side
    x = (render(sprites, group, side, side) + 1).div(2).clamp(0, 1).to(device)
    ids, mask = (t.to(device) for t in reader.tokens([scene.captions[0] for scene in group]))
    return encoder.logits(encoder.image(x), encoder.text(reader.states(ids, mask), mask)).float().cpu()


JOB = JobKind(build, {"job": Settings, "data": Data, "model": Model})
