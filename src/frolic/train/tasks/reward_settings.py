"""What a recipe of ``kind: reward`` can say, and what of it cannot be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from frolic.config import Positive, Section, TrainerSection
from frolic.errors import ConfigError, nearest
from frolic.sampling.few import FEW, MOST
from frolic.sampling.solvers import SAMPLERS
from frolic.spec import SamplingDefaults
from frolic.strength import MAX_WEIGHT
from frolic.train.objectives.agreement import OpinionSettings
from frolic.train.objectives.nft import NFTSettings
from frolic.train.objectives.steps import StepSettings


class Window(Section):
    """Of a clip, how many latent frames are decoded and scored in an update, from where: ``random``, or from the
    ``first``. ``latents: null`` decodes all."""

    latents: Positive | None = 2
    where: Literal["random", "first"] = "random"


class GradientSettings(Section):
    """Of ``method: gradient``: which steps are trained in an update, what of a clip is scored in it, and whether what
    the rewards see is cut and blurred a little. ``estimate``: the gradient of the ``drawing`` itself, or that of its
    latents ``renoised``, SRPO's."""

    choice: StepSettings = StepSettings()
    window: Window = Window()
    disturb: bool = True
    estimate: Literal["drawing", "renoised"] = "drawing"


class Settings(Section):
    """``rewards``: what is trained for, each as ``NAME[=WEIGHTS][:WEIGHT]``; ``held_out`` what is only watched, as
    ``NAME[=WEIGHTS]``. ``method``: ``gradient`` (``frolic.train.objectives.reward``) or ``nft``, for rewards without
    gradients (``frolic.train.objectives.nft``), each with a section of its own settings. With the gradient,
    ``agreement`` says beside the rewards what pictures or clips show. ``steps``, ``sampler``, ``guidance_scale`` and
    ``guidance_scale_2`` of the rollout are the model's own where they are not set. ``train``: of two experts, which.
    ``anchor`` keeps the model near what it was. ``check_every`` updates the held-out prompts are drawn, with
    ``check_steps`` steps (the model's own if not set), and the run ends when a held-out reward lies ``floor``
    deviations below the plain model's in ``patience`` checks. ``rank``, ``alpha``, ``targets`` and ``recompute`` as in
    ``kind: lora``."""

    rewards: Annotated[list[str], Field(min_length=1)]
    held_out: list[str] = []
    method: Literal["gradient", "nft"] = "gradient"
    gradient: GradientSettings = GradientSettings()
    agreement: OpinionSettings | None = None
    nft: NFTSettings = NFTSettings()
    steps: Positive | None = None
    sampler: str | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    anchor: Annotated[float, Field(ge=0)] = 0.0
    train: Literal["both", "high", "low"] = "both"
    check_every: Positive = 25
    check_steps: Positive | None = None
    floor: Annotated[float, Field(ge=0)] = 0.1
    patience: Positive = 2
    sweep: list[Annotated[float, Field(gt=0, le=MAX_WEIGHT)]] = [0.25, 0.5, 0.75, 1.0]
    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    alpha: Annotated[float, Field(gt=0)] = 8.0
    targets: list[str] = ["blocks.*"]
    recompute: bool = False

    @field_validator("sampler")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in SAMPLERS:
            raise ValueError(f"there is no sampler {name!r}{nearest(name, SAMPLERS)}")
        return name

    @model_validator(mode="after")
    def _agreement_by_gradient(self) -> Settings:
        if self.agreement is not None and self.method != "gradient":
            raise ValueError("agreement is a gradient by the latents; take it out, or train with method: gradient")
        return self


class Data(Section):
    """``prompts``: a file of one prompt a line (or of JSON lines with ``prompt``), or the name of a list that ships
    with frolic. ``held_out`` of them are never trained with. ``height``, ``width`` and ``frames`` are the model's own
    where they are not set. ``title``, ``about`` and ``trained_on`` as in ``kind: lora``."""

    prompts: str
    held_out: Annotated[int, Field(ge=2)] = 24
    height: Positive | None = None
    width: Positive | None = None
    frames: Positive | None = None
    title: str = "reward"
    about: str = ""
    trained_on: str = ""


def check_passes(settings: Settings, trainer: TrainerSection) -> None:
    """Raises ConfigError, listing what of the passes of an update cannot be."""
    wrong, each = [], trainer.batch_size // trainer.accumulation
    if trainer.workers > 1:
        wrong.append("trainer.workers: a model is read with and without its adapter in turns; set it to 1")
    if settings.method == "nft" and each < settings.nft.group:
        wrong.append(
            f"job.nft.group is {settings.nft.group}, and a pass has {each} samples (trainer.batch_size / accumulation)"
        )
    if wrong:
        raise ConfigError(f"{'; '.join(wrong)}.")


def check_sampler(settings: Settings, defaults: SamplingDefaults, base: str) -> None:
    """Raises ConfigError, listing what of the rollout the model cannot do."""
    wrong, few = [], defaults.sampler == FEW
    if settings.sampler is not None and (settings.sampler == FEW) is not few:
        wrong.append(f"job.sampler: {base} is not drawn by {settings.sampler}; leave it out")
    if few:
        for name in ("steps", "check_steps"):
            if (getattr(settings, name) or 1) > MOST:
                wrong.append(f"job.{name}: {base} draws in 1 to {MOST}")
        if settings.gradient.estimate == "renoised":
            wrong.append(f"job.gradient.estimate: {base} finishes a picture in a step and has none that is short")
        if settings.method == "nft":
            wrong.append(f"job.method: nft trains a flow's velocities, and {base} has none; train with the gradient")
    if wrong:
        raise ConfigError(f"{'; '.join(wrong)}.")
