"""What is trained beside a whole model that stays as it is: opening the model, and what tasks ask of it.

P side of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from frolic.adapters import Target, target
from frolic.assemble import assemble
from frolic.config import Precision, Section
from frolic.errors import ConfigError, NumericsError, nearest
from frolic.lora.trained import chosen
from frolic.models.registry import families
from frolic.pipeline import Pipeline
from frolic.pipeline.parts import Offloaded
from frolic.plan import BuildPlan, make_plan
from frolic.train.device import in_bfloat16
from frolic.types import Compat


class Base(Section):
    """``base``: the model, as ``--model`` names it, kept in ``dtype``."""

    base: str
    dtype: Literal["float32", "bfloat16"] = "float32"


def open_base(
    model: Base,
    device: torch.device,
    precision: Precision,
    compat: Compat = "diffusers",
    *,
    memory: Literal["full", "low"] = "full",
) -> tuple[BuildPlan, Pipeline]:
    """The model, all of it loaded, to be trained beside in ``precision``; with ``memory: low`` its parts come to the
    device when they are asked for, as in ``frolic.load``.

    Raises:
        ConfigError: it does not suit that precision. Others as ``make_plan`` and ``assemble``.
    """
    plan = make_plan(model.base, dtype=model.dtype, device=str(device), compat=compat, memory=memory)
    check_precision(plan, model.dtype, in_bfloat16(precision, device))
    return plan, assemble(plan)


def check_precision(plan: BuildPlan, dtype: str, half: bool) -> None:
    """Raises:
    ConfigError: the model computes noise in bfloat16, if that is ``half``, or its dtype asks for it, if it is not.
    """
    if not half:
        if dtype != "float32":
            raise ConfigError(
                f"model.dtype is {dtype}, which float32 (trainer.precision) cannot train with; set one of them."
            )
        return
    safe = plan.published.dtypes.get("transformer") if plan.published else None
    if safe is not None and "bfloat16" not in safe:
        raise ConfigError(
            f"{plan.name} gives noise in bfloat16; set model.dtype=float32 and trainer.precision=fp32, or name a model "
            "that was published in bfloat16."
        )


def linears(pipeline: Pipeline, base: str, patterns: Sequence[str]) -> tuple[Target, dict[str, tuple[int, int]]]:
    """What adapters can change of the transformer, and rows and columns of those linears that ``patterns`` choose.

    Raises:
        ConfigError: they choose none.
    """
    transformer = pipeline.transformer
    goal = target(families()[pipeline.card.family].components["transformer"], transformer.config, transformer)
    wanted = chosen(goal.shapes, list(patterns))
    if not wanted:
        raise ConfigError(
            f"job.targets: {', '.join(patterns)} match no linear of {base}"
            f"{nearest(patterns[0] if patterns else '', goal.shapes)}."
        )
    return goal, wanted


def encode_texts(pipeline: Pipeline, sentences: list[str]) -> dict[str, Tensor]:
    """The tensors of a ``TextSet``, each sentence as drawing would read it."""
    states = []
    for text in sentences:
        encoded = pipeline.text.encode(text)
        states.append(encoded.embeds[encoded.mask].to("cpu", torch.bfloat16))
    length = torch.tensor([len(each) for each in states])
    return {"flat": torch.cat(states), "start": length.cumsum(0) - length, "length": length}


def set_aside(pipeline: Pipeline) -> None:
    """Only previews need the text encoder and the autoencoder from here on: they wait in the CPU's memory."""
    for name in ("text_encoder", "vae"):
        part = Offloaded(getattr(pipeline, name), pipeline.device)
        part.release()
        setattr(pipeline, name, part)


def autocast(pipeline: Pipeline) -> torch.autocast:
    return torch.autocast(pipeline.device.type, torch.bfloat16, enabled=pipeline.dtype != torch.float32)


def drawn(pipeline: Pipeline, prompt: str, height: int, width: int) -> Tensor:
    """[3, P, P]; black where a model in training draws nothing that could be shown."""
    try:
        result = pipeline(prompt, seed=0, height=height, width=width, output="tensor", loras={})
    except NumericsError:
        return torch.zeros(3, height, width)
    assert result.pixels is not None
    return result.pixels[0].cpu()
