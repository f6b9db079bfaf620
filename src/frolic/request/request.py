"""One request: its fields, what is wrong with them, and what a model makes of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from frolic.errors import RequestError, nearest
from frolic.request.checks import (
    MAX_FPS,
    MAX_FRAMES,
    MAX_GUIDANCE,
    MAX_LAYER,
    MAX_PICTURES,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    SAMPLERS,
    SCHEDULES,
    check_integer,
    check_number,
    check_text,
    is_number,
)
from frolic.request.few import check_times, problems_of, without_use
from frolic.request.length import length_of
from frolic.request.sizes import parse_aspect, sides_of
from frolic.sampling.few import FEW
from frolic.strength import Blend, blend_of

if TYPE_CHECKING:
    from frolic.spec import SamplingDefaults


@dataclass(frozen=True)
class Request:
    """One request. None means: as the model does by default.

    ``prompts``: one or more texts; each is drawn ``num_images`` times, in the order p0 p0 p1 p1. An empty text asks for
    anything. ``seed``: of the first picture, the next ones count up; or one seed for every picture; None draws one.
    ``height`` and ``width``: pixels of the picture that comes out; ``aspect``, as "16:9", instead of them: the size the
    model was trained with that is nearest. ``binning``: draw at that size in any case, and resize. ``schedule``: whose
    noise levels. ``instruction``: what the text encoder reads before each prompt; an empty one is none.

    ``guidance_scale``: 1 or less is no guidance; ``guidance_interval``: the noise levels (0 to 1) between which it
    acts; ``apg``: adaptive projected guidance instead of the classifier-free one, with ``apg_eta`` (share of the
    parallel part, 0 to 1), ``apg_threshold`` (longest update, 0 is any) and ``apg_momentum`` (-1 to 1). ``pag_scale``:
    of perturbed-attention guidance, 0 is none (not with ``apg``); ``pag_layers``: the blocks it perturbs.

    ``strength``: how much of a given image is drawn anew, above 0 to 1. ``control_scale``: how strongly a given control
    picture acts. ``loras``: how much of each adapter, for all prompts or one blend for each; an empty blend is none.

    Of a video: ``frames``, or ``seconds`` instead of them, and ``fps``, how many frames are shown a second.
    ``guidance_scale_2``: of the second of two experts; left out, it is ``guidance_scale`` where that is given.

    ``step_cache``: steps whose first block does what it did before, but for this share (0 to 1), take the other blocks'
    work over; 0 is never.

    ``times``: of a model that draws in a few steps, the TrigFlow time of each, in radians, instead of computed ones.

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
    schedule: str | None = None
    aspect: str | None = None
    binning: bool | None = None
    guidance_interval: tuple[float, float] | None = None
    apg: bool = False
    apg_eta: float = 0.0
    apg_threshold: float = 0.0
    apg_momentum: float = -0.5
    pag_scale: float = 0.0
    pag_layers: tuple[int, ...] | None = None
    instruction: str | None = None
    strength: float = 1.0
    control_scale: float = 1.0
    loras: tuple[Blend, ...] | None = None
    frames: int | None = None
    seconds: float | None = None
    fps: float | None = None
    guidance_scale_2: float | None = None
    step_cache: float = 0.0
    times: tuple[float, ...] | None = None

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
                check_text(problems, "prompt", text)
        if self.negative_prompt is not None:
            check_text(problems, "negative_prompt", self.negative_prompt)
        check_integer(problems, "steps", self.steps, 1, MAX_STEPS)
        check_integer(problems, "height", self.height, 1, MAX_SIDE)
        check_integer(problems, "width", self.width, 1, MAX_SIDE)
        check_integer(problems, "num_images", self.num_images, 1, MAX_PICTURES)
        if not problems and self.pictures > MAX_PICTURES:
            problems.append(f"{self.pictures} pictures were asked for, the most is {MAX_PICTURES} at a time")
        seeds = self.seed if isinstance(self.seed, tuple) else (self.seed,)
        for seed in seeds:
            check_integer(problems, "seed", seed, 0, MAX_SEED)
        if isinstance(self.seed, tuple) and not problems and len(self.seed) != self.pictures:
            problems.append(f"there are {len(self.seed)} seeds for {self.pictures} pictures")
        for name in ("guidance_scale", "guidance_scale_2"):
            if getattr(self, name) is not None:
                check_number(problems, name, getattr(self, name), 0, MAX_GUIDANCE)
        for name, known in (("sampler", SAMPLERS), ("schedule", SCHEDULES)):
            if (value := getattr(self, name)) is not None and value not in known:
                listed = " or ".join([", ".join(known[:-1]), known[-1]])
                problems.append(f"{name} is {value!r}, it must be {listed}{nearest(str(value), known)}")
        check_times(problems, self.times, self.steps)
        self._check_conditions(problems)
        self._check_length(problems)
        if problems:
            raise RequestError(f"Change the request: {'; '.join(problems)}.")

    def _check_conditions(self, problems: list[str]) -> None:
        if self.instruction is not None:
            check_text(problems, "instruction", self.instruction)
        if self.aspect is not None:
            if parse_aspect(self.aspect) is None:
                problems.append(
                    f"aspect is {self.aspect!r}, it must be two numbers as 16:9, each at most 4 times the other"
                )
            if self.width is not None or self.height is not None:
                problems.append("aspect already decides the size; leave out height and width")
        if self.binning not in (None, True, False):
            problems.append(f"binning is {self.binning!r}, it must be true or false")
        if not isinstance(self.apg, bool):
            problems.append(f"apg is {self.apg!r}, it must be true or false")
        if self.apg and self.pag_scale:
            problems.append("apg and pag_scale exclude each other")
        for name, low, high in (("apg_eta", 0, 1), ("apg_threshold", 0, 1e6), ("apg_momentum", -1, 1)):
            check_number(problems, name, getattr(self, name), low, high)
        interval = self.guidance_interval
        if interval is not None and not (
            isinstance(interval, tuple)
            and len(interval) == 2
            and all(map(is_number, interval))
            and 0 <= interval[0] < interval[1] <= 1
        ):
            problems.append(
                f"guidance_interval is {interval!r}, it must be two noise levels, 0 to 1, the lower one first"
            )
        for name in ("pag_scale", "control_scale"):
            check_number(problems, name, getattr(self, name), 0, MAX_GUIDANCE)
        if not (is_number(self.strength) and 0 < self.strength <= 1):
            problems.append(f"strength is {self.strength!r}, it must be above 0 and at most 1")
        check_number(problems, "step_cache", self.step_cache, 0, 1)
        if self.pag_layers is not None:
            if not isinstance(self.pag_layers, tuple) or not self.pag_layers:
                problems.append("pag_layers must be a tuple of block numbers")
            else:
                for layer in self.pag_layers:
                    check_integer(problems, "a block of pag_layers", layer, 0, MAX_LAYER)
        if self.loras is not None and len(self.loras) not in (1, len(self.prompts)):
            problems.append(f"there are {len(self.loras)} blends of loras for {len(self.prompts)} prompts")

    def _check_length(self, problems: list[str]) -> None:
        check_integer(problems, "frames", self.frames, 1, MAX_FRAMES)
        if self.seconds is not None:
            if not (is_number(self.seconds) and 0 < self.seconds <= MAX_FRAMES):
                problems.append(f"seconds is {self.seconds!r}, it must be above 0 and at most {MAX_FRAMES}")
            if self.frames is not None:
                problems.append("seconds already decides how many frames there are; leave out frames")
        if self.fps is not None:
            check_number(problems, "fps", self.fps, 1, MAX_FPS)

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
        if not fields.get("apg"):
            for name in ("apg_eta", "apg_threshold", "apg_momentum"):
                if fields.get(name) not in (None, UNSAID[name]):
                    raise RequestError(f"{name} belongs to adaptive projected guidance; give apg too.")
        if fields.get("pag_layers") is not None and fields.get("pag_scale") is None:
            raise RequestError("pag_layers says which blocks pag_scale perturbs; give that too.")
        for name in ("guidance_interval", "pag_layers", "times"):
            if isinstance(fields.get(name), (list, range)):
                fields[name] = tuple(fields[name])
        if (loras := fields.get("loras")) is not None:
            each = loras if isinstance(loras, (list, tuple)) else [loras]
            fields["loras"] = tuple(blend if isinstance(blend, tuple) else blend_of(blend) for blend in each)
        return cls(prompts, seed=seed, **{key: value for key, value in fields.items() if value is not None})

    @property
    def guided(self) -> bool:
        """Whether a completed request has an unconditional branch, and so a use for its negative prompt."""
        return max(self.branch_scale, self.guidance_scale_2 or 0) > 1

    @property
    def tells_guidance(self) -> bool:
        """Whether a completed request's guidance scale is something that the model is told."""
        return self.sampler == FEW

    @property
    def branch_scale(self) -> float:
        """How far a completed request goes from an unconditional branch; 1 or less is none."""
        return 1.0 if self.tells_guidance else self.guidance_scale or 0.0

    @property
    def is_video(self) -> bool:
        """Whether a completed request asks for videos. One frame is a picture."""
        return (self.frames or 1) > 1

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

    def blend_of(self, index: int) -> int:
        """Which of ``loras`` picture ``index`` is drawn with."""
        return index // self.num_images if self.loras is not None and len(self.loras) > 1 else 0

    def seeded(self) -> Request:
        """The same with a seed; one drawn here is short enough to be typed again."""
        return self if self.seed is not None else replace(self, seed=int.from_bytes(os.urandom(4), "little"))

    def completed(
        self, defaults: SamplingDefaults, stride: int, blocks: int = MAX_LAYER + 1
    ) -> tuple[Request, list[str]]:
        """The request with nothing left open, and what had to be said about it. ``stride``: sides that can be drawn
        are its multiples; ``blocks``: how many the model has.

        Raises:
            RequestError: it asks for what this model, or its own other fields, rule out.
        """

        def chosen(value: Any, default: Any) -> Any:
            return default if value is None else value

        width, height = chosen(self.width, defaults.width), chosen(self.height, defaults.height)
        if self.aspect is not None:
            width, height = sides_of(self.aspect, defaults, stride)
        length = length_of(self, defaults)
        complete = replace(
            self.seeded(),
            negative_prompt=chosen(self.negative_prompt, defaults.negative_prompt),
            steps=chosen(self.steps, len(self.times) if self.times else defaults.steps),
            guidance_scale=float(chosen(self.guidance_scale, defaults.guidance_scale)),
            height=height,
            width=width,
            aspect=None,
            binning=chosen(self.binning, defaults.bin_base > 0),
            sampler=chosen(self.sampler, defaults.sampler),
            schedule=chosen(self.schedule, defaults.schedule),
            pag_layers=chosen(self.pag_layers, defaults.pag_layers),
            instruction=chosen(self.instruction, defaults.instruction),
            frames=length.frames,
            seconds=None,
            fps=length.fps,
            guidance_scale_2=self._second_scale(defaults),
        )
        useless, said = without_use(complete, defaults)
        complete = replace(complete, **useless)
        problems = [*length.problems, *problems_of(complete, defaults)]
        if complete.binning and not defaults.bin_base:
            problems.append("this model has no table of sizes it was trained with; leave out binning")
        if complete.apg and not complete.guided:
            problems.append("apg needs a guidance_scale above 1")
        if complete.guidance_interval is not None and not (complete.guided or complete.pag_scale):
            problems.append("guidance_interval needs guidance: a guidance_scale above 1")
        if complete.pag_scale and (last := max(complete.pag_layers or (0,))) >= blocks:
            problems.append(f"pag_layers: there is no block {last} to perturb; this model has 0 to {blocks - 1}")
        if problems:
            raise RequestError(f"Change the request: {'; '.join(problems)}.")
        drawn = complete.drawn(defaults, stride)
        notes = [*length.notes, *said]
        if drawn != (height, width):
            notes.append(f"Drawn at {drawn[1]}x{drawn[0]} and brought to {width}x{height}.")
        return complete, notes

    def length(self, defaults: SamplingDefaults) -> tuple[int, float | None]:
        """How many frames a model with these ``defaults`` draws for this request, and how many are shown a second (None
        where it draws pictures).

        Raises:
            RequestError: it asks for a video, or for more of one, than the model can draw.
        """
        found = length_of(self, defaults)
        if found.problems:
            raise RequestError(f"Change the request: {'; '.join(found.problems)}.")
        return found.frames, found.fps

    def _second_scale(self, defaults: SamplingDefaults) -> float | None:
        """``guidance_scale_2`` with nothing left open. Changing the first alone changes both, as in diffusers."""
        if defaults.boundary is None:
            return None
        said = (self.guidance_scale_2, self.guidance_scale, defaults.guidance_scale_2, defaults.guidance_scale)
        return float(next(scale for scale in said if scale is not None))

    def drawn(self, defaults: SamplingDefaults, stride: int) -> tuple[int, int]:
        """Height and width in pixels at which a completed request is drawn, before it is brought to its own."""
        assert self.height and self.width
        if self.binning:
            from frolic.bins import nearest_bin

            return nearest_bin(self.height, self.width, defaults.bin_base)
        return -(-self.height // stride) * stride, -(-self.width // stride) * stride

    def picture(self, index: int) -> dict[str, Any]:
        """What draws picture ``index`` alone, as JSON."""
        shared = {name: getattr(self, name) for name in RECORDED}
        said = {name: value for name, value in shared.items() if name not in UNSAID or value != UNSAID[name]}
        if not self.pag_scale:
            said.pop("pag_layers", None)
        if self.loras is not None and (blend := self.loras[self.blend_of(index)]):
            said["loras"] = {name: strength.to_json() for name, strength in blend}
        return {"prompt": self.prompt_of(index), "seed": self.seeds[index], **said}


UNSAID: Mapping[str, Any] = MappingProxyType(
    {
        "schedule": "diffusers",
        "binning": False,
        "guidance_interval": None,
        "instruction": "",
        "apg": False,
        "apg_eta": 0.0,
        "apg_threshold": 0.0,
        "apg_momentum": -0.5,
        "pag_scale": 0.0,
        "pag_layers": None,
        "strength": 1.0,
        "control_scale": 1.0,
        "frames": 1,
        "fps": None,
        "guidance_scale_2": None,
        "step_cache": 0.0,
        "times": None,
    }
)
"""What a record does not say is this."""
RECORDED = ("negative_prompt", "steps", "guidance_scale", "sampler", "width", "height", *UNSAID)
"""The fields that every picture of a request shares, and that draw it again."""
