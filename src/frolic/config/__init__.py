"""Recipes: YAML with inheritance, variables and environment overlays, read into validated values."""

from __future__ import annotations

from frolic.config.load import JobSchemas, list_recipes, load_recipe
from frolic.config.recipe import (
    Count,
    Every,
    Fraction,
    GroupRule,
    Interval,
    JobSection,
    MuonSection,
    OptimizerSection,
    OutputSection,
    Positive,
    Precision,
    Recipe,
    ScheduleSection,
    TrainerSection,
)
from frolic.config.validate import Section

__all__ = [
    "Count",
    "Every",
    "Fraction",
    "GroupRule",
    "Interval",
    "JobSchemas",
    "JobSection",
    "MuonSection",
    "OptimizerSection",
    "OutputSection",
    "Positive",
    "Precision",
    "Recipe",
    "ScheduleSection",
    "Section",
    "TrainerSection",
    "list_recipes",
    "load_recipe",
]
