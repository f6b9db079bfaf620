"""``kind: lora``: train an adapter on a folder of captioned pictures; the model stays as it is.

N pictures, C latent channels, h/w latent sides, S tokens, E text width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from frolic.adapters import read, write
from frolic.adapters.shelf import TRAINED_ON, WEIGHT
from frolic.config import Positive, Recipe, Section
from frolic.data.beside import cut_out, put_together
from frolic.data.cached import Bucket, CaptionedLatents, Captions, TextSet
from frolic.data.folder import Entry, fitted, mark_of, read_entries, whole
from frolic.data.shapes import by_size, sizes
from frolic.errors import ConfigError, NumericsError
from frolic.io.files import write_json
from frolic.io.home import home
from frolic.lora.trained import Factors, Learning
from frolic.pipeline import Pipeline, Progress
from frolic.strength import MAX_WEIGHT
from frolic.train.checkpointing import recompute
from frolic.train.device import resolve_device
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.flow import FlowSettings
from frolic.train.objectives.lora import LoraFlow
from frolic.train.tasks.base import Base, autocast, drawn, encode_texts, linears, open_base, set_aside
from frolic.train.tasks.cache import cached

_log = logging.getLogger(__name__)
WEIGHTS, COMFY, REPORT = "pytorch_lora_weights.safetensors", "comfyui.safetensors", "training.json"


class Settings(FlowSettings):
    """``rank`` and ``alpha``: the change is ``alpha / rank`` times the product. ``targets``: shell patterns of our
    names of linears; one that begins with ``!`` takes away. ``recompute``: less memory, more work. ``previews``:
    prompts drawn with the adapter and without; by default the first captions."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[float, Field(gt=0)] = 16.0
    targets: list[str] = ["blocks.*"]
    recompute: bool = False
    previews: list[str] = []


class Prior(Section):
    """Prior preservation (Ruiz et al. 2023): ``count`` pictures that the model itself draws of ``prompts`` before it is
    trained are trained with too, in a ``share`` of the batches: what is like the new thing stays what it was."""

    prompts: Annotated[list[str], Field(min_length=1)]
    count: Positive = 32
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3


class Beside(Section):
    """Pictures of the new thing beside each of ``others`` ("a lobster"), which the model itself draws: ``count`` of
    them, put together from cut-outs (``frolic.data.beside``), in a ``share`` of the batches. From pictures of it alone
    a model learns that it is alone. There are none where no picture can be cut out."""

    others: Annotated[list[str], Field(min_length=1)]
    count: Positive = 48
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3


class Data(Section):
    """``folder`` as in ``frolic.data.folder``; pictures are brought to sizes of about ``side`` squared pixels, each to
    the one it loses least by. ``title`` names the adapter, ``trigger`` is the word that calls it, ``weight`` the one to
    use it with, ``about`` and ``trained_on`` a sentence each for those who will. ``cache`` holds latents and text."""

    folder: str
    side: Positive
    title: str = "adapter"
    trigger: str = ""
    about: str = ""
    trained_on: str = ""
    weight: Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT)] = 1.0
    prior: Prior | None = None
    beside: Beside | None = None
    cache: str | None = None

    @model_validator(mode="after")
    def _agree(self) -> Data:
        if self.beside is not None and not self.trigger:
            raise ValueError("data.beside puts what data.trigger names beside other things; give the trigger")
        if sum(part.share for part in (self.prior, self.beside) if part is not None) >= 1:
            raise ValueError("data.prior.share and data.beside.share leave nothing for the pictures; make them smaller")
        return self


def build(recipe: Recipe) -> Job:
    settings, data = recipe.section("job", Settings), recipe.section("data", Data)
    model = recipe.section("model", Base)
    device = resolve_device(recipe.trainer.device)
    _, pipeline = open_base(model, device, recipe.trainer.precision)
    if pipeline.makes_clips:
        raise ConfigError(f"model.base: {model.base} makes clips, and this trains on pictures; name a model of those.")
    transformer: Any = pipeline.transformer
    if getattr(transformer.config, "guidance_embeds", False):
        raise ConfigError(
            f"model.base: {model.base} is a Sprint model, which predicts no flow to train with; train the adapter on "
            "the model it was made from: it fits both."
        )
    goal, wanted = linears(pipeline, model.base, settings.targets)
    entries = read_entries(Path(data.folder).expanduser())
    marks = {"model": pipeline.card.hash, "training set": mark_of(entries)}
    source = encode(pipeline, entries, data, [*marks.values(), model.dtype, str(data.side)])
    null = pipeline.text.encode("", negative=True)
    width = source.captions.tokens
    shown = settings.previews or list(dict.fromkeys(entry.caption for entry in entries))[:4]
    set_aside(pipeline)

    generator = torch.Generator().manual_seed(recipe.trainer.seed)
    factors = Factors(wanted, settings.rank, settings.alpha, generator)
    learning = Learning(transformer, factors)
    if settings.recompute:
        recompute(transformer.blocks)

    def draw(other: Factors) -> Tensor:
        pictures = []
        for prompt in shown:
            for reading in (other, None):
                with learning.reading(reading), autocast(pipeline):
                    pictures.append(drawn(pipeline, prompt, data.side, data.side))
        return torch.stack(pictures)

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        learned = modules["adapter"]
        assert isinstance(learned, Factors)
        about = {
            "modelspec.title": data.title,
            "modelspec.architecture": f"{pipeline.card.name}/lora",
            "ss_base_model_version": pipeline.card.name,
            "ss_output_name": data.title,
            **{
                key: text
                for key, text in (
                    ("modelspec.trigger_phrase", data.trigger),
                    ("modelspec.description", data.about),
                    (TRAINED_ON, data.trained_on or f"{len(entries)} pictures"),
                    (WEIGHT, f"{data.weight:g}"),
                )
                if text
            },
        }
        for name, form in ((WEIGHTS, "diffusers"), (COMFY, "comfy")):
            write(learned.adapter(), folder / name, goal, form, metadata=about)
        report = {
            "base": pipeline.card.name,
            "base_hash": pipeline.card.hash,
            "title": data.title,
            "trigger": data.trigger,
            "rank": settings.rank,
            "alpha": settings.alpha,
            "linears": len(wanted),
            "pictures": len(entries),
            "prior_pictures": data.prior.count if data.prior else 0,
        }
        write_json(folder / REPORT, report)

    return Job(
        objective=LoraFlow(
            transformer, factors, settings, null.embeds[:, :width].float().cpu(), null.mask[:, :width].cpu(), draw
        ),
        source=source,
        export=export,
        warm_start=lambda folder: factors.load(read(folder / WEIGHTS, goal)),
        inputs=marks,
    )


def encode(pipeline: Pipeline, entries: Sequence[Entry], data: Data, key: list[str]) -> CaptionedLatents:
    """Every picture as latents and every caption as text, and the model's own pictures where prior ones are asked for:
    from the cache, where that has them."""
    cache = Path(data.cache).expanduser() if data.cache else home() / "latents"
    shapes = sizes(data.side, pipeline.stride, pipeline.defaults.bin_base)
    groups = by_size([entry.picture for entry in entries], shapes)
    buckets: list[Bucket] = []
    captions: list[tuple[str]] = []
    first = 0
    together = None if data.beside is None else put_beside(pipeline, entries, data, partial(cached, cache), key)
    own = 1 - (data.prior.share if data.prior else 0.0) - (data.beside.share if data.beside and together else 0.0)

    def add(latents: Tensor, said: Sequence[str], share: float) -> None:
        nonlocal first
        buckets.append(Bucket(latents, first, share))
        captions.extend((text,) for text in said)
        first += len(latents)

    for size, rows in groups.items():
        some = [entries[row] for row in rows]
        inputs = [*key, repr(size), *(entry.picture.name for entry in some)]
        made = cached(cache, inputs, partial(_latents, pipeline, some, size), f"{len(some)} pictures")
        add(made["latents"], [entry.caption for entry in some], own * len(rows) / len(entries))
    if data.prior is not None:
        said = [data.prior.prompts[number % len(data.prior.prompts)] for number in range(data.prior.count)]
        made = cached(
            cache, [*key, "prior", *said], partial(_prior, pipeline, said, data.side), f"{len(said)} prior pictures"
        )
        add(made["latents"], said, data.prior.share)
    if data.beside is not None and together is not None:
        add(*together, data.beside.share)
    sentences = list(dict.fromkeys(text for (text,) in captions))
    words = TextSet(**cached(cache, [*key, "texts", *sentences], lambda: encode_texts(pipeline, sentences), "captions"))
    longest = int(words.length.max())
    return CaptionedLatents(buckets, Captions.of(captions, sentences, words, longest), 1.0)


def put_beside(
    pipeline: Pipeline, entries: Sequence[Entry], data: Data, kept: Callable[..., dict[str, Tensor]], key: list[str]
) -> tuple[Tensor, list[str]] | None:
    """Latents and captions of ``data.beside``; None, which is logged, where none of the pictures shows a thing that can
    be cut out."""
    wanted = data.beside
    assert wanted is not None
    cuts = [cut for entry in entries if (cut := cut_out(whole(entry.picture, data.side))) is not None]

    def make() -> dict[str, Tensor]:
        others = [(name, cut) for name in wanted.others if (cut := _cut_drawn(pipeline, name, data.side)) is not None]
        if not others:
            raise ConfigError(
                f"data.beside: the model draws none of {', '.join(wanted.others)} so that it can be cut out."
            )
        pictures, captions = put_together(cuts, data.trigger, others, wanted.count, data.side)
        told = torch.tensor([*"\n".join(captions).encode()], dtype=torch.uint8)
        return {**_encoded(pipeline, (2 * picture - 1 for picture in pictures)), "captions": told}

    if not cuts:
        _log.info(
            "The pictures show nothing that could be cut out (see-through around it, or on a ground of one colour), so "
            "nothing is put beside other things."
        )
        return None
    inputs = [*key, wanted.model_dump_json(), data.trigger]
    made = kept(inputs, make, f"{wanted.count} pictures beside others")
    return made["latents"], bytes(made["captions"].tolist()).decode().split("\n")


def _cut_drawn(pipeline: Pipeline, name: str, side: int) -> Tensor | None:
    pixels = pipeline(f"{name} on a white background", seed=0, height=side, width=side, output="tensor").pixels
    assert pixels is not None
    return cut_out(pixels[0].float().cpu() / 2 + 0.5)


def _latents(pipeline: Pipeline, entries: Sequence[Entry], size: tuple[int, int]) -> dict[str, Tensor]:
    return _encoded(pipeline, (fitted(entry.picture, *size) for entry in entries))


def _encoded(pipeline: Pipeline, pictures: Iterable[Tensor]) -> dict[str, Tensor]:
    """``latents`` [N, C, h, w] in half precision, in the transformer's scale, of pictures [3, H, W] in [-1, 1]."""
    vae, dtype = pipeline.vae, pipeline.dtypes.get("vae", pipeline.dtype)
    made = []
    with torch.no_grad():
        for picture in pictures:
            x = picture[None].to(pipeline.device, dtype).contiguous(memory_format=torch.channels_last)
            z = vae.encode(x).float() * vae.config.scaling_factor
            if not bool(torch.isfinite(z).all()):
                raise NumericsError("The encoder gave values that are not finite; set model.dtype=float32.")
            made.append(z.half().cpu().contiguous())
    return {"latents": torch.cat(made)}


def _prior(pipeline: Pipeline, prompts: Sequence[str], side: int) -> dict[str, Tensor]:
    """``latents`` of the model's own pictures, in the order of ``prompts``."""
    drawn = []
    for number, prompt in enumerate(prompts):
        *_, last = (
            event
            for event in pipeline.stream(prompt, seed=number, height=side, width=side, output="tensor")
            if isinstance(event, Progress)
        )
        drawn.append(last.latents.tensor.float().half().cpu())
    return {"latents": torch.cat(drawn)}


JOB = JobKind(build, {"job": Settings, "data": Data, "model": Base})
