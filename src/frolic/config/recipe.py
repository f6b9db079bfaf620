"""What a recipe says, as validated and immutable values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    field_validator,
    model_validator,
)

from frolic.config.tree import Entry, Problems, Where
from frolic.config.validate import Section, SectionT, validate

Precision = Literal["auto", "bf16", "fp32"]
"""bfloat16 by autocast, float32, or the former where the device multiplies in it."""


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
"""A whole number from 0; ``1e5`` is accepted."""

Positive = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
"""A whole number from 1; ``1e5`` is accepted."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True)
class Interval:
    """Every so many ``steps``, or every so many ``seconds``, or never (both None)."""

    steps: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"{self.seconds:g}s"
        return "never" if self.steps is None else str(self.steps)

    def due(self, steps: int, seconds: float) -> bool:
        """Whether that many steps and seconds since the last time are enough."""
        if self.steps is not None:
            return steps >= self.steps
        return self.seconds is not None and seconds >= self.seconds


def parse_interval(value: Any) -> Interval:
    """``500`` (steps), ``"90s"``, ``"10m"``, ``"2h"`` or ``"never"``."""
    value = _whole(value)
    if isinstance(value, Interval):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return Interval(steps=value)
    if value == "never":
        return Interval()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value) if isinstance(value, str) else None
    if found and float(found[1]) > 0:
        return Interval(seconds=float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]])
    raise ValueError("give a number of steps (500), a time (90s, 10m, 2h) or never")


Every = Annotated[Interval, PlainValidator(parse_interval), PlainSerializer(str)]


class JobSection(Section):
    """Which job, and the settings that this kind of job understands."""

    model_config = ConfigDict(extra="allow")

    kind: str


class GroupRule(Section):
    """Settings for the parameters it matches; the first rule that matches a parameter is the one that counts.

    Attributes:
        match: shell patterns over ``module.parameter.name``; every pattern must match something. Empty: all.
        max_ndim: only parameters with at most this many dimensions.
        optimizer: which of the two updates them (Muon sees ``[out, in, ...]`` as ``[out, in * ...]``).
        lr_scale: times the learning rate.
        weight_decay: in place of the optimizer's.
        split: for Muon, how many matrices are stacked along the first dimension (3 for a joint query, key and value).
    """

    match: list[str] = []
    max_ndim: Positive | None = None
    optimizer: Literal["adamw", "muon"] | None = None
    lr_scale: Annotated[float, Field(ge=0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    split: Positive = 1


class MuonSection(Section):
    """Muon's own settings; its updates have AdamW's size, so that one learning rate serves both.

    Attributes:
        lr_scale: times the learning rate, for every matrix that Muon updates.
        iterations: Newton-Schulz steps.
        precision: arithmetic of the iteration, as of the trainer.
    """

    momentum: Fraction = 0.95
    nesterov: bool = True
    iterations: Positive = 5
    lr_scale: Annotated[float, Field(ge=0)] = 1.0
    precision: Precision = "auto"


class OptimizerSection(Section):
    """``kind: muon`` updates matrices (two dimensions) with Muon and the rest with AdamW."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: Annotated[float, Field(gt=0)]
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.9, 0.99]
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    muon: MuonSection = MuonSection()
    groups: list[GroupRule] = []


class ScheduleSection(Section):
    """The learning rate over the run, as a factor from 0 to 1.

    Attributes:
        warmup: steps of linear rise from 0.
        decay_from: part of the run after which the decay begins (0: right after the warmup; 0.8: the last fifth).
        floor: the factor at the end.
    """

    kind: Literal["constant", "cosine", "linear"] = "constant"
    warmup: Count = 0
    decay_from: Fraction = 0.0
    floor: Fraction = 0.0


class TrainerSection(Section):
    """The loop.

    Attributes:
        batch_size: samples an update; ``accumulation`` splits them into that many passes (terms of
            a loss that compare samples with each other then see one pass at a time).
        workers: on a CPU, how many passes are computed side by side, each on one core; other devices pass it over.
        clip: largest gradient norm; 0 is no limit.
        ema: decay of the averaged weights; 0 keeps none. It warms up as ``(1 + step) / (10 + step)``.
        keep: how many checkpoints stay.
        threads: CPU threads; 0 leaves torch's choice.
        prefetch: batches prepared ahead, each on a thread of its own; the run's numbers do not depend on it.
        patience: updates in a row that may be skipped because they are not finite.
        init_from: a checkpoint, a run folder, an exported folder or a model that ships, whose weights (only) the run
            starts from.
        init_step: how many of ``steps`` those weights have behind them: schedule and batches go on from there.
    """

    steps: Positive
    batch_size: Positive
    accumulation: Positive = 1
    workers: Positive = 1
    clip: Annotated[float, Field(ge=0)] = 1.0
    precision: Precision = "auto"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    checkpoint_every: Every = Interval(seconds=600)
    keep: Positive = 3
    preview_every: Every = Interval()
    log_every: Positive = 20
    seed: Count = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count = 0
    channels_last: bool = False
    compile: bool = False
    prefetch: Count = 0
    tensorboard: bool = True
    patience: Positive = 20
    init_from: str | None = None
    init_step: Count = 0

    @model_validator(mode="after")
    def _splits_evenly(self) -> TrainerSection:
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} does not divide by accumulation {self.accumulation}")
        if self.accumulation % self.workers:
            raise ValueError(f"accumulation {self.accumulation} does not divide by workers {self.workers}")
        return self

    @model_validator(mode="after")
    def _begins_somewhere(self) -> TrainerSection:
        if self.init_step and self.init_from is None:
            raise ValueError(f"init_step {self.init_step} needs init_from, whose weights have those steps behind them")
        return self


class OutputSection(Section):
    """Where a run writes.

    Attributes:
        folder: checkpoints, metrics and previews.
        export: the finished model; ``<folder>/export`` when not set.
    """

    folder: str
    export: str | None = None

    @field_validator("folder", "export")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("give a folder")
        return value


class Recipe(Section):
    """One training run. ``model`` and ``data`` are understood by the kind of job, through ``section``."""

    description: str = ""
    job: JobSection
    model: dict[str, Any] = {}
    data: dict[str, Any] = {}
    optimizer: OptimizerSection
    schedule: ScheduleSection = ScheduleSection()
    trainer: TrainerSection
    output: OutputSection

    _name: str = PrivateAttr(default="recipe")
    _tree: Entry | None = PrivateAttr(default=None)

    @property
    def name(self) -> str:
        """The shipped name, or the file's name without its ending."""
        return self._name

    def bind(self, name: str, tree: Entry) -> Recipe:
        """Remember the name and where each value was written, for later messages."""
        self._name, self._tree = name, tree
        return self

    def section(self, name: Literal["job", "model", "data"], model: type[SectionT]) -> SectionT:
        """A free section as the ``model`` of its job.

        Raises:
            ConfigError: with every unknown key and wrong value, and where each was written.
        """
        problems = Problems()
        checked = self.check_section(name, model, problems)
        problems.check(f"Recipe {self.name}")
        assert checked is not None
        return checked

    def check_section(self, name: str, model: type[SectionT], problems: Problems) -> SectionT | None:
        """As ``section``, but adding what is wrong to ``problems``."""
        written = self._tree.value.get(name) if self._tree is not None else None
        tree = written or _entry(self.model_dump()[name], Where(self.name))
        return validate(model, tree, problems, prefix=(name,), skip=("kind",) if name == "job" else ())

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain data for JSON or YAML."""
        return self.model_dump(mode="json")


def _entry(value: Any, where: Where) -> Entry:
    if isinstance(value, dict):
        return Entry({key: _entry(item, where) for key, item in value.items()}, where)
    if isinstance(value, list):
        return Entry([_entry(item, where) for item in value], where)
    return Entry(value, where)
