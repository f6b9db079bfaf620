"""What a model that draws in a few steps has no use for: SANA-Sprint, whose sampler is ``scm``.

It is told the guidance scale, so it has no unconditional branch, and what acts on one has nothing to act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from frolic.request.checks import is_number
from frolic.sampling.few import FEW, MOST

if TYPE_CHECKING:
    from frolic.request.request import Request
    from frolic.spec import SamplingDefaults

IMPLIED_STRENGTH = 0.5
"""How much of an image is drawn anew where nobody says: at two steps, more would be all of it."""
_LAST_TIME = 1.5708


_HAS_TOO = frozenset(
    {"prompts", "seed", "num_images", "height", "width", "aspect", "steps", "times", "sampler", "loras"}
)
"""Fields of a request that a model of a few steps carries out as any other does, within its limits."""


def suits(request: Request) -> bool:
    """Whether a model that draws in a few steps can do all of what is asked for: no more steps than it has, no sampler
    but its own, and nothing that acts on guidance, on an image, on adapters or on time."""
    plain = all(
        getattr(request, field.name) == field.default for field in fields(request) if field.name not in _HAS_TOO
    )
    return plain and (request.steps or 1) <= MOST and request.sampler in (None, FEW) and not any(request.loras or ())


def check_times(problems: list[str], times: Any, steps: Any) -> None:
    """``times`` must be None or what a few steps are made at: falling numbers above 0, one for each step."""
    if times is None:
        return
    whole = isinstance(times, tuple) and times and all(is_number(time) and 0 < time <= _LAST_TIME for time in times)
    if not whole or any(after >= before for before, after in pairwise(times)):
        problems.append(
            f"times is {times!r}, it must be falling numbers, above 0 and at most {_LAST_TIME}, one for each step "
            "(the end, 0, is not written)"
        )
    elif steps is not None and steps != len(times):
        problems.append(f"steps is {steps} and there are {len(times)} times; leave out steps")


def problems_of(request: Request, defaults: SamplingDefaults) -> list[str]:
    """What of a completed ``request`` rules out a model with these ``defaults``."""
    found = []
    if defaults.sampler != FEW:
        if request.sampler == FEW:
            found.append(f"sampler {FEW} is for models that draw in a few steps (Sprint); leave it out")
        if request.times is not None:
            found.append("times is for models that draw in a few steps (Sprint); leave it out")
        return found
    if request.sampler != FEW:
        found.append(f"sampler is {request.sampler!r}, and this model draws with {FEW} alone; leave it out")
    if (request.steps or 0) > MOST:
        said = f"there are {request.steps} times" if request.times is not None else f"steps is {request.steps}"
        found.append(f"{said}, and this model draws in 1 to {MOST}")
    return found


def without_use(request: Request, defaults: SamplingDefaults) -> tuple[dict[str, Any], list[str]]:
    """The fields of a completed ``request`` that have nothing to act on in a model with these ``defaults``, as they are
    then; and what is said about it."""
    if defaults.sampler != FEW:
        return {}, []
    nothing = {"negative_prompt": "", "apg": False, "pag_scale": 0.0, "guidance_interval": None}
    given = {name: value for name, value in nothing.items() if getattr(request, name) not in (None, value)}
    if not given:
        return {}, []
    return given, [
        f"This model is told the guidance scale and has no use for {_listed([*given])}, which "
        f"{'was' if len(given) == 1 else 'were'} ignored."
    ]


def kept_nothing(request: Request) -> str:
    """What is said where a completed ``request`` draws so much of an image anew, in so few steps, that nothing of it is
    left; or ""."""
    steps, strength = request.steps or 1, request.strength
    begins_in_noise = request.times is None or request.times[0] > 1.57
    if request.sampler != FEW or strength == 1 or int(steps - steps * strength) or not begins_in_noise:
        return ""
    most = (steps - 1) / steps
    hint = f"a strength of {most:.2g} or less" if steps > 1 else "more steps and a lower strength"
    return f"At {steps} step{'s' * (steps > 1)} a strength of {strength:g} draws the image wholly anew; give {hint}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
