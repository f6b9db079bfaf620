"""Kinds of training jobs: what a recipe's ``job.kind`` names.

A file of ``tasks`` defines its ``JOB`` and has one line in ``_BUILT_IN``; it is imported when a recipe asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from torch import nn

from frolic.config import Recipe, Section
from frolic.errors import ConfigError, nearest
from frolic.train.held_out import HeldOut
from frolic.train.memory_plan import MemoryPlan
from frolic.train.objectives.base import Objective, Source


@dataclass(frozen=True)
class Job:
    """One run's task.

    Attributes:
        export: writes the finished model, from the (averaged) modules, into an empty folder.
        held_out: checks of what is learned that may end the run early.
        inputs: a fingerprint of each thing the run is made from (other models, data), by what to call it; a run
            cannot be resumed with others.
        warm_start: loads weights from an exported folder into the objective's modules, for ``trainer.init_from``.
    """

    objective: Objective
    source: Source
    export: Callable[[Mapping[str, nn.Module], Path], None] | None = None
    warm_start: Callable[[Path], None] | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    held_out: HeldOut | None = None


@dataclass(frozen=True)
class JobKind:
    """How a recipe becomes a job.

    Attributes:
        build: the job of a recipe; takes its own sections with ``recipe.section("job", Settings)`` and the like.
        sections: models of the recipe's free sections (``job`` without its kind, ``model``, ``data``), so that all
            of a recipe's mistakes are found at once.
        memory: what a run would take, before any weight is read; None where nobody has worked it out. Its second
            argument says whether a model that is not on this machine may be fetched for that.
    """

    build: Callable[[Recipe], Job]
    sections: Mapping[str, type[Section]] = field(default_factory=dict)
    memory: Callable[[Recipe, bool], MemoryPlan] | None = None


class JobRegistry:
    """Kinds by name; a value may be the module whose ``JOB`` it is."""

    def __init__(self, kinds: Mapping[str, JobKind | str]) -> None:
        self._kinds = dict(kinds)

    def kinds(self) -> Collection[str]:
        """The known values of ``job.kind``."""
        return tuple(self._kinds)

    def sections(self, kind: str) -> Mapping[str, type[Section]]:
        """Models of that kind's free sections."""
        return self.find(kind).sections

    def find(self, kind: str) -> JobKind:
        """Raises:
        ConfigError: no job is of that kind.
        """
        if kind not in self._kinds:
            raise ConfigError(f"No job is of the kind {kind!r}{nearest(kind, self._kinds)}.")
        found = self._kinds[kind]
        if isinstance(found, str):
            found = import_module(found).JOB
            assert isinstance(found, JobKind)
        return found

    def build(self, recipe: Recipe) -> Job:
        """The job that ``recipe`` describes."""
        return self.find(recipe.job.kind).build(recipe)


_BUILT_IN: Mapping[str, str] = {
    "clip-contrastive": "frolic.train.tasks.clip_contrastive",
    "contrastive": "frolic.train.tasks.contrastive",
    "control": "frolic.train.tasks.control",
    "distillation": "frolic.train.tasks.distillation",
    "flow": "frolic.train.tasks.flow",
    "latent-contrastive": "frolic.train.tasks.latent_contrastive",
    "layout": "frolic.train.tasks.layout",
    "lora": "frolic.train.tasks.lora",
    "preference": "frolic.train.tasks.preference",
    "reconstruction": "frolic.train.tasks.reconstruction",
    "reward": "frolic.train.tasks.reward",
    "sprint": "frolic.train.tasks.sprint",
    "video": "frolic.train.tasks.video",
}


def built_in() -> JobRegistry:
    """The jobs that come with frolic."""
    return JobRegistry(_BUILT_IN)
