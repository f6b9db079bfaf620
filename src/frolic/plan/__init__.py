"""What will be built, decided and checked before a weight is read."""

from frolic.plan.build import BuildPlan, Part, make_plan
from frolic.plan.dtypes import DTYPES
from frolic.plan.find import ALIASES, Watch, choose_device, find_model, published_names

__all__ = [
    "ALIASES",
    "DTYPES",
    "BuildPlan",
    "Part",
    "Watch",
    "choose_device",
    "find_model",
    "make_plan",
    "published_names",
]
