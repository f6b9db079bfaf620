"""``kind: control``: train a ControlNet beside a model that stays as it is.

N pictures, C latent channels, h/w latent sides, S tokens, E text width, P side of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from frolic.config import Positive, Recipe, Section
from frolic.data.cached import TextSet
from frolic.data.controlled import ControlledLatents, Pictures, SpritePictures, Variants, controlled, hold_out
from frolic.data.folder import PictureFolder
from frolic.errors import ConfigError, NumericsError
from frolic.io.files import write_json
from frolic.io.home import home
from frolic.models.registry import families
from frolic.models.sana.controlnet import SanaControlNet
from frolic.models.sana.model import SanaTransformer
from frolic.pipeline import Pipeline
from frolic.pipeline.edges import VERSION, as_picture, soft_edges
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.control import Control, ControlSettings
from frolic.train.tasks.base import Base, autocast, encode_texts, open_base, set_aside
from frolic.train.tasks.cache import cached
from frolic.train.tasks.component import load_weights, open_pack, pack_mark, write_component

REPORT = "training.json"
_SHOWN = 4
_AT_ONCE = 2**20  # pixels encoded together


class Data(Section):
    """``folder``: pictures with their captions beside them (``frolic.data.folder``); without one, the starter's
    sprites, packed in ``pack``, or where ``frolic data starter`` wrote them. ``side`` in pixels. ``variants_plain`` and
    ``variants_coloured``: pictures of each sprite. ``held_out``: how many pictures (of other concepts than those that
    are trained with, where there are concepts) the finished ControlNet is measured with. ``cache`` holds latents and
    text."""

    folder: str | None = None
    pack: str | None = None
    cache: str | None = None
    side: Positive
    variants_plain: Positive = 2
    variants_coloured: Annotated[int, Field(ge=0)] = 1
    held_out: Positive = 64


def build(recipe: Recipe) -> Job:
    settings, data = recipe.section("job", ControlSettings), recipe.section("data", Data)
    chosen = recipe.section("model", Base)
    device = resolve_device(recipe.trainer.device)
    # The ControlNet itself is trained in float32, under the trainer's precision.
    _, pipeline = open_base(chosen, device, recipe.trainer.precision, settings.injection)
    base = pipeline.transformer
    if not isinstance(base, SanaTransformer) or base.config.guidance_embeds:
        raise ConfigError(
            f"model.base: {chosen.base} is no model that ControlNets are trained for; name a SANA model, not Sprint."
        )
    if data.side % pipeline.stride:
        raise ConfigError(
            f"data.side is {data.side}; give a multiple of {pipeline.stride}, which {chosen.base} can draw."
        )
    pictures = open_pictures(data)
    kinds = len(pictures.groups.unique())
    if data.held_out >= kinds:
        raise ConfigError(f"data.held_out is {data.held_out} of {kinds} kinds of pictures; hold out fewer.")
    marks = {"model": pipeline.card.hash, "training set": pictures.mark}
    whole = encode(pipeline, pictures, data, [*marks.values(), str(settings.injection), chosen.dtype, str(data.side)])
    rows, held = hold_out(pictures.groups, data.held_out)
    null = pipeline.text.encode("", negative=True)
    set_aside(pipeline)

    with torch.no_grad():
        net = SanaControlNet.from_base(base, settings.layers).float()
    spec = families()[pipeline.card.family].optional["controlnet"]
    width = whole.captions.tokens
    objective = Control(
        base,
        net,
        settings,
        null.embeds[:, :width].float().cpu(),
        null.mask[:, :width].cpu(),
        lambda module: draw(pipeline, module, pictures, held[:_SHOWN], data.side),
    )

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        module = modules["controlnet"]
        write_component(spec, "controlnet", net.config, module, folder, torch.bfloat16)
        batch = {name: tensor.to(device) for name, tensor in whole.of(held, torch.zeros_like(held)).items()}
        with autocast(pipeline):
            figures = objective.held_out(module, batch)
        report = {
            "base": pipeline.card.name,
            "base_hash": pipeline.card.hash,
            "injection": settings.injection,
            "control": "edges",
            "side": data.side,
            "held_out": {"pictures": len(held), **figures},
        }
        write_json(folder / REPORT, report)

    return Job(
        objective=objective,
        source=whole.only(rows),
        export=export,
        warm_start=lambda folder: load_weights(spec, net.config, net, folder),
        inputs=marks,
    )


def open_pictures(data: Data) -> Pictures:
    """What ``data`` names.

    Raises:
        ConfigError: it names two things. FileError: it is not there, or listing what is wrong with it.
    """
    if data.folder is not None:
        if data.pack is not None:
            raise ConfigError("data.folder and data.pack are two training sets; give one.")
        return PictureFolder.read(Path(data.folder).expanduser(), data.side)
    sprites, concepts = open_pack(data.pack)
    variants = Variants(data.variants_plain, data.variants_coloured)
    return SpritePictures(sprites, concepts, variants, data.side, pack_mark(sprites, concepts))


def encode(pipeline: Pipeline, pictures: Pictures, data: Data, key: list[str]) -> ControlledLatents:
    """Every picture and its edges as latents, every caption as text: from the cache, where that has them."""
    cache = Path(data.cache).expanduser() if data.cache else home() / "latents"
    captions = pictures.captions
    sentences = list(dict.fromkeys(text for each in captions for text in each))
    said = f"{len(captions)} pictures and their edges"
    latents = cached(cache, [*key, f"edges {VERSION}"], lambda: _latents(pipeline, pictures, data.side), said)
    texts = cached(cache, [*key, "texts"], lambda: encode_texts(pipeline, sentences), "captions")
    return controlled(captions, latents["latents"], latents["control"], sentences, TextSet(**texts))


def _latents(pipeline: Pipeline, pictures: Pictures, side: int) -> dict[str, Tensor]:
    """``latents`` and ``control`` [N, C, h, w] in half precision, in the transformer's scale."""
    dtype = pipeline.dtypes.get("vae", pipeline.dtype)
    vae = pipeline.vae.to(memory_format=torch.channels_last)
    found: dict[str, list[Tensor]] = {"latents": [], "control": []}
    with torch.no_grad():
        for rows in torch.arange(len(pictures.groups)).split(max(1, _AT_ONCE // side**2)):
            made = {"latents": pictures.pixels(rows), "control": pictures.controls(rows, _edges)}
            for name, pixels in made.items():
                pixels = pixels.to(pipeline.device, dtype).contiguous(memory_format=torch.channels_last)
                z = vae.encode(pixels).float() * vae.config.scaling_factor
                if not bool(torch.isfinite(z).all()):
                    raise NumericsError("The encoder gave values that are not finite; set model.dtype=float32.")
                # As a file gives it back: other strides, and a resumed run would round differently.
                found[name].append(z.half().cpu().contiguous())
    return {name: torch.cat(parts) for name, parts in found.items()}


def _edges(pixels: Tensor) -> Tensor:
    return as_picture(soft_edges(pixels))


def draw(pipeline: Pipeline, net: nn.Module, pictures: Pictures, rows: Tensor, side: int) -> Tensor:
    """Four pictures [3, P, P] for each of ``rows``: as it is, its edges, drawn with them, and drawn without."""
    shown: list[Tensor] = []
    pipeline.controlnet = net
    captions = pictures.captions
    with autocast(pipeline):
        for row, pixels, control in zip(rows, pictures.pixels(rows), pictures.controls(rows, _edges), strict=True):
            shown += [pixels, control]
            for scale in (1.0, 0.0):
                asked: dict[str, Any] = {"seed": 0, "height": side, "width": side, "control_scale": scale}
                try:
                    result = pipeline(captions[int(row)][0], control=control, output="tensor", **asked)
                except NumericsError:
                    shown.append(torch.zeros_like(pixels))
                else:
                    assert result.pixels is not None
                    shown.append(result.pixels[0].cpu())
    pipeline.controlnet = None
    return torch.stack(shown)


JOB = JobKind(build, {"job": ControlSettings, "data": Data, "model": Base})
