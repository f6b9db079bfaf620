"""What a user asks for, checked as a whole before anything is computed. Without torch: a refusal is immediate."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any

from frolic.errors import RequestError, nearest

if TYPE_CHECKING:
    from frolic.spec import SamplingDefaults

MAX_SEED = 2**63 - 1
MAX_STEPS = 1000
MAX_GUIDANCE = 100.0
MAX_SIDE = 8192
MAX_PROMPT = 20_000
MAX_PICTURES = 1000
SAMPLERS = ("dpmpp_2m", "euler")


@dataclass(frozen=True)
class Request:
    """One request. None means: as the model does by default.

    ``prompts``: one or more texts; each is drawn ``num_images`` times, in the order p0 p0 p1 p1. An empty text asks for
    anything. ``seed``: of the first picture, the next ones count up; or one seed for every picture; None
    draws one. ``guidance_scale``: 1 or less is no guidance. ``height`` and ``width``: pixels.

    Raises:
        RequestError: listing everything that cannot be carried out.
    """

    prompts: tuple[str, ...]
    negative_prompt: str | None = None
    seed: int | tuple[int, ...] | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    num_images: int = 1
    sampler: str | None = None

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not isinstance(self.prompts, tuple):
            problems.append("prompts must be a tuple of texts; Request.of takes one text or a list")
        elif not all(isinstance(p, str) for p in self.prompts):
            problems.append("prompt must be a text or a list of texts")
        elif not self.prompts:
            problems.append("there is no prompt")
        else:
            for text in self.prompts:
                _check_text(problems, "prompt", text)
        if self.negative_prompt is not None:
            _check_text(problems, "negative_prompt", self.negative_prompt)
        _check_integer(problems, "steps", self.steps, 1, MAX_STEPS)
        _check_integer(problems, "height", self.height, 1, MAX_SIDE)
        _check_integer(problems, "width", self.width, 1, MAX_SIDE)
        _check_integer(problems, "num_images", self.num_images, 1, MAX_PICTURES)
        if not problems and self.pictures > MAX_PICTURES:
            problems.append(f"{self.pictures} pictures were asked for, the most is {MAX_PICTURES} at a time")
        seeds = self.seed if isinstance(self.seed, tuple) else (self.seed,)
        for seed in seeds:
            _check_integer(problems, "seed", seed, 0, MAX_SEED)
        if isinstance(self.seed, tuple) and not problems and len(self.seed) != self.pictures:
            problems.append(f"there are {len(self.seed)} seeds for {self.pictures} pictures")
        scale = self.guidance_scale
        if scale is not None and not (_is_number(scale) and 0 <= scale <= MAX_GUIDANCE):
            problems.append(f"guidance_scale is {scale!r}, it must be 0 to {MAX_GUIDANCE:g}")
        if self.sampler is not None and self.sampler not in SAMPLERS:
            problems.append(f"sampler is {self.sampler!r}, it must be {' or '.join(SAMPLERS)}")
        if problems:
            raise RequestError(f"Change the request: {'; '.join(problems)}.")

    @classmethod
    def of(cls, prompt: str | Sequence[str], **fields: Any) -> Request:
        """From one prompt or several and other fields; None is as if not given.

        Raises:
            RequestError: also when there is no such field.
        """
        known = [field.name for field in dataclass_fields(cls)[1:]]
        for name in fields:
            if name not in known:
                raise RequestError(
                    f"A request has no {name!r}{nearest(name, known) or '; it has ' + ', '.join(known)}."
                )
        one = isinstance(prompt, (str, bytes)) or not isinstance(prompt, Iterable)
        prompts: Any = (prompt,) if one else tuple(prompt)
        seed = fields.pop("seed", None)
        if isinstance(seed, (list, range)):
            seed = tuple(seed)
        return cls(prompts, seed=seed, **{key: value for key, value in fields.items() if value is not None})

    @property
    def pictures(self) -> int:
        """How many pictures this asks for."""
        return len(self.prompts) * self.num_images

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every picture; the request has one."""
        assert self.seed is not None
        if isinstance(self.seed, tuple):
            return self.seed
        return tuple((self.seed + index) % (MAX_SEED + 1) for index in range(self.pictures))

    def prompt_of(self, index: int) -> str:
        """The prompt of picture ``index``."""
        return self.prompts[index // self.num_images]

    def seeded(self) -> Request:
        """The same with a seed; one drawn here is short enough to be typed again."""
        return self if self.seed is not None else replace(self, seed=int.from_bytes(os.urandom(4), "little"))

    def completed(self, defaults: SamplingDefaults, stride: int) -> tuple[Request, list[str]]:
        """The request with nothing left open and a size the model can draw, and what had to be said about it."""

        def chosen(value: Any, default: Any) -> Any:
            return default if value is None else value

        asked = (chosen(self.width, defaults.width), chosen(self.height, defaults.height))
        width, height = (max(stride, (side + stride // 2) // stride * stride) for side in asked)
        notes = []
        if (width, height) != asked:
            notes.append(f"{asked[0]}x{asked[1]} is not a multiple of {stride}; drawing {width}x{height}.")
        complete = replace(
            self.seeded(),
            negative_prompt=chosen(self.negative_prompt, defaults.negative_prompt),
            steps=chosen(self.steps, defaults.steps),
            guidance_scale=float(chosen(self.guidance_scale, defaults.guidance_scale)),
            height=height,
            width=width,
            sampler=chosen(self.sampler, defaults.sampler),
        )
        return complete, notes

    def picture(self, index: int) -> dict[str, Any]:
        """What draws picture ``index`` alone, as JSON."""
        return {
            "prompt": self.prompt_of(index),
            "negative_prompt": self.negative_prompt,
            "seed": self.seeds[index],
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "sampler": self.sampler,
            "width": self.width,
            "height": self.height,
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _check_integer(problems: list[str], name: str, value: Any, low: int, high: int) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high):
        problems.append(f"{name} is {value!r}, it must be {low} to {high}")


def _check_text(problems: list[str], name: str, value: Any) -> None:
    if not isinstance(value, str):
        problems.append(f"{name} must be a text")
    elif len(value) > MAX_PROMPT:
        problems.append(f"{name} has {len(value):,} characters, the most is {MAX_PROMPT:,}")
    elif any("\ud800" <= char <= "\udfff" for char in value):
        problems.append(f"{name} is not valid Unicode text")
