"""``kind: reward``: train an adapter so that what the model draws scores more.

N prompts, C latent channels, S tokens, E text width, T frames, H/W sides of a frame.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from frolic.config import Recipe
from frolic.data.cached import TextSet
from frolic.data.prompts import Prompts, read_prompts, split_prompts
from frolic.errors import ConfigError
from frolic.io import safetensors
from frolic.lora.experts import EXPERTS
from frolic.lora.trained import Factors, Learning
from frolic.pipeline import Pipeline
from frolic.pipeline.parts import Offloaded, Resident
from frolic.rewards import Reward
from frolic.rewards.preprocess import disturb
from frolic.rewards.spec import make_rewards, parse_rewards
from frolic.sampling.solvers import SAMPLERS
from frolic.train.checkpointing import recompute
from frolic.train.device import in_bfloat16, resolve_device
from frolic.train.held_out import HeldOut
from frolic.train.jobs import Job, JobKind
from frolic.train.memory_plan import MemoryPlan
from frolic.train.objectives.base import Source
from frolic.train.objectives.consistency import Stepped
from frolic.train.objectives.nft import NFT
from frolic.train.objectives.reward import Goal, RewardGradient
from frolic.train.objectives.steps import StepChoice
from frolic.train.painter import ModelPainter
from frolic.train.tasks.agreement import agreement_on_prompts
from frolic.train.tasks.base import Base, encode_texts, linears, open_base, set_aside
from frolic.train.tasks.component import part_marks, weights_mark
from frolic.train.tasks.reward_export import About, Exporting
from frolic.train.tasks.reward_settings import Data, Settings, Window, check_passes, check_sampler


def build(recipe: Recipe) -> Job:
    settings, data = recipe.section("job", Settings), recipe.section("data", Data)
    model = recipe.section("model", Base)
    check_passes(settings, recipe.trainer)
    device = resolve_device(recipe.trainer.device)
    prompts, held = split_prompts(read_prompts(data.prompts), data.held_out)
    trained, watched = _rewards(settings, device)
    rewards = [*(goal for goal, _ in trained), *watched]
    weights = {reward.name: weight for reward, weight in trained}
    for reward in rewards:
        reward.check_prompts([*prompts, *held])
    # On a device with memory of its own, parts come when they are needed and leave: texts first, then one expert.
    spare: Literal["full", "low"] = "full" if device.type == "cpu" else "low"
    plan, pipeline = open_base(model, device, recipe.trainer.precision, memory=spare)
    check_sampler(settings, pipeline.defaults, model.base)
    wanted = list(dict.fromkeys([*prompts, *held]))
    words = TextSet(**encode_texts(pipeline, wanted))
    null = pipeline.text.encode("", negative=True)
    set_aside(pipeline)
    nets = _nets(pipeline, settings)
    factors, learning, goal = _factors(pipeline, nets, settings, model.base, recipe.trainer.seed)
    read_null = (null.embeds.float(), null.mask)
    painter = _painter(pipeline, nets, learning, read_null, settings, data, rewards, set(weights))
    known = Prompts(prompts, words, {text: row for row, text in enumerate(wanted)})
    source: Source = known
    agreement = None
    if settings.agreement is not None:
        parts = part_marks(plan.path, plan.path)
        source, agreement = agreement_on_prompts(
            known, settings.agreement, lambda texts: TextSet(**encode_texts(pipeline, texts)), parts, painter.shape,
            device,
        )  # fmt: skip
        pipeline.spare("text_encoder")  # it came back for the mistaken prompts
    check_sigmas = painter.schedule.sigmas(settings.check_steps or pipeline.defaults.steps, pipeline.defaults.shift)
    half = in_bfloat16(recipe.trainer.precision, device)

    def draw(modules: Mapping[str, nn.Module], scale: float = 1.0) -> Tensor:
        """The held-out prompts, picture k from the noise of seed k."""
        read = {name: module.scaled(scale) for name, module in modules.items() if isinstance(module, Factors)}
        parts = []
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half), painter.reading(read):
            for first in range(0, len(held), 4):
                rows = range(first, min(first + 4, len(held)))
                states, mask = (each.to(device) for each in known.texts([held[row] for row in rows]))
                parts.append(painter.draw(states, mask, rows, check_sigmas).float().cpu())
        return torch.cat(parts)

    def keep(modules: Mapping[str, nn.Module], folder: Path) -> None:
        for name, module in modules.items():
            state = {key: tensor.cpu() for key, tensor in module.state_dict().items()}
            safetensors.save(state, folder / f"best-{name}.safetensors", force=True)

    held_out = HeldOut(
        settings.check_every, held, rewards, weights, draw, settings.floor,
        settings.patience, keep, device,
    )  # fmt: skip
    deviation = held_out.base().deviation
    goals = [Goal(reward, weight, deviation[reward.name]) for reward, weight in trained]
    objective: RewardGradient | NFT
    named = dict(zip(nets, painter.expert_steps(), strict=True))
    groups = [named[name] for name in factors]
    if settings.method == "nft":
        source = Stepped(source)
        objective = NFT(factors, painter, goals, prompts, settings.nft, settings.anchor, _steps(groups))
    else:
        choice = StepChoice.of(settings.gradient.choice, groups)
        objective = RewardGradient(
            factors, painter, goals, choice, prompts, painter.shape, settings.anchor,
            disturb if settings.gradient.disturb else None, settings.gradient.estimate == "renoised",
            agreement,
        )  # fmt: skip
    marks = {
        "model": pipeline.card.hash,
        "prompts": Prompts.mark([*prompts, *held]),
        **{f"reward {reward.name} {key}": mark for reward in rewards for key, mark in reward.marks.items()},
    }
    if settings.agreement is not None:
        marks["agreement"] = weights_mark(settings.agreement.folder)
    exporting = Exporting(
        held_out, draw, goal, {name: EXPERTS[name] for name in factors}, len(nets) > 1, settings.sweep,
        About(
            pipeline.card.name, pipeline.card.hash, data.title, data.about,
            data.trained_on or f"the reward {' and '.join(weights)}, {len(prompts)} prompts",
            marks, _facts(settings, painter, weights, settings.sampler or pipeline.defaults.sampler),
        ),
        Path(recipe.output.folder).expanduser(),
    )  # fmt: skip

    def warm_start(folder: Path) -> None:
        exporting.warm_start(factors, folder)
        if isinstance(objective, NFT):
            objective.begin_as()

    return Job(
        objective=objective,
        source=source,
        export=exporting,
        warm_start=warm_start,
        inputs=marks,
        held_out=held_out,
    )


def _steps(groups: Sequence[range]) -> list[int]:
    """All of them. Raises ConfigError: there are none."""
    steps = [step for group in groups for step in group]
    if not steps:
        raise ConfigError("job.train: the expert that is trained has no steps; give more job.steps.")
    return steps


def _rewards(settings: Settings, device: torch.device) -> tuple[list[tuple[Reward, float]], list[Reward]]:
    """Those that are trained for, with their weights, and those that are watched. Raises ConfigError: one of them
    cannot serve here."""
    wanted = parse_rewards(settings.rewards)
    watched = parse_rewards(settings.held_out) if settings.held_out else []
    weighed = [each.text for each in watched if each.weight != 1]
    if weighed:
        raise ConfigError(f"job.held_out: {', '.join(weighed)} are only watched and have no weight; leave it out.")
    made = make_rewards([*wanted, *watched], device)
    twice = {reward.name for reward in made if sum(reward.name == other.name for other in made) > 1}
    if twice:
        raise ConfigError(f"{', '.join(sorted(twice))} is both trained for and watched, or twice; name it once.")
    blind = [reward.name for reward in made[: len(wanted)] if not reward.differentiable]
    if settings.method == "gradient" and blind:
        raise ConfigError(
            f"{', '.join(blind)} gives no gradient; train with job.method=nft, which needs scores only, or only watch "
            "it (job.held_out)."
        )
    return [(reward, each.weight) for reward, each in zip(made, wanted, strict=False)], made[len(wanted) :]


def _nets(pipeline: Pipeline, settings: Settings) -> dict[str, Any]:
    """The transformers; of two, neither stays on the device."""
    if pipeline.defaults.boundary is None:
        if settings.train != "both":
            raise ConfigError(f"job.train is {settings.train!r}, but the model has no two experts; leave it out.")
        return {"transformer": pipeline.transformer}
    nets: dict[str, Any] = {}
    for name in EXPERTS:
        nets[name] = getattr(pipeline, name)
        Offloaded(nets[name], pipeline.device).release()
    return nets


def _factors(
    pipeline: Pipeline, nets: Mapping[str, Any], settings: Settings, base: str, seed: int
) -> tuple[dict[str, Factors], dict[str, Learning], Any]:
    goal, wanted = linears(pipeline, base, settings.targets)
    generator = torch.Generator().manual_seed(seed)
    factors, learning = {}, {}
    for name, net in nets.items():
        if settings.train in ("both", EXPERTS[name]):
            factors[name] = Factors(wanted, settings.rank, settings.alpha, generator)
            learning[name] = Learning(net, factors[name])
            if settings.recompute:
                recompute(net.blocks)
    return factors, learning, goal


def _painter(
    pipeline: Pipeline,
    nets: Mapping[str, Any],
    learning: Mapping[str, Learning],
    null: tuple[Tensor, Tensor],
    settings: Settings,
    data: Data,
    rewards: Sequence[Reward],
    trained: Collection[str],
) -> ModelPainter:
    defaults = pipeline.defaults
    sampler = SAMPLERS[settings.sampler or defaults.sampler]
    schedule = sampler.schedule(defaults.schedule)
    vae, config = pipeline.vae, pipeline.vae.config
    vae.recompute = settings.recompute  # of autoencoders that know it
    height, width = data.height or defaults.height, data.width or defaults.width
    frames = (data.frames or defaults.frames) if pipeline.makes_clips else None
    if settings.guidance_scale_2 is not None and len(nets) == 1:
        raise ConfigError("job.guidance_scale_2 is of the second of two experts, and the model has one; leave it out.")
    wrong = [f"{side} pixels" for side in (height, width) if side % pipeline.stride]
    if data.frames is not None and frames is None:
        wrong.append(f"data.frames={data.frames} of a model of pictures")
    if frames is not None and (frames - 1) % config.frame_stride:
        wrong.append(f"{frames} frames, which are 1 and a multiple of {config.frame_stride}")
    if wrong:
        raise ConfigError(f"The model cannot draw {', '.join(wrong)}; sides are multiples of {pipeline.stride}.")
    count = None if frames is None else vae.latent_frames(frames)
    shape = (
        config.latent_channels,
        *(() if count is None else (count,)),
        height // config.stride,
        width // config.stride,
    )
    scale = defaults.guidance_scale if settings.guidance_scale is None else settings.guidance_scale
    second = (settings.guidance_scale_2, settings.guidance_scale, defaults.guidance_scale_2, scale)
    other = next(each for each in second if each is not None)
    window = settings.gradient.window
    decode = partial(_stills, pipeline) if count is None else partial(_clips, pipeline, window, count)
    whole = count is None or settings.method == "nft" or window.latents is None
    seen = (frames or 1) if whole else _least(vae, window, count or 1)
    # What is only watched sees whole clips.
    shown = {reward.name: seen if reward.name in trained else frames or 1 for reward in rewards}
    short = [f"{each.name} ({each.least_frames})" for each in rewards if each.least_frames > shown[each.name]]
    if short:
        raise ConfigError(
            f"{', '.join(short)} need more frames than they are shown; widen job.gradient.window, or leave them out."
        )
    # Of two experts one waits where memory is cheaper.
    held = {name: Resident(net) if len(nets) == 1 else Offloaded(net, pipeline.device) for name, net in nets.items()}
    for each in held.values():
        each.release()
    return ModelPainter(
        held, learning, null, [scale, other][: len(nets)], sampler, schedule,
        schedule.sigmas(settings.steps or defaults.steps, defaults.shift), shape, decode,
        defaults.boundary if len(nets) > 1 else None,
    )  # fmt: skip


def _least(vae: Any, window: Window, count: int) -> int:
    """How many frames the shortest window has."""
    size = min(window.latents or count, count)
    return int(vae.frames(size))


def _stills(pipeline: Pipeline, latents: Tensor, generator: torch.Generator | None) -> Tensor:
    vae = pipeline.vae
    pixels: Tensor = vae.decode(latents / vae.config.scaling_factor)
    return (pixels.float() / 2 + 0.5).clamp(0, 1)[:, None]


def _clips(
    pipeline: Pipeline, window: Window, count: int, latents: Tensor, generator: torch.Generator | None
) -> Tensor:
    """All frames, or with a ``generator`` those of a window. The window that has the first latent has fewer."""
    vae = pipeline.vae
    z = vae.unscaled(latents)
    size = min(window.latents or count, count)
    if generator is None:
        pixels = torch.cat([*vae.stream_decode(z)], dim=2)
    else:
        places = count - size + 1 if window.where == "random" else 1
        start = int(torch.randint(places, (), generator=generator))
        pixels = vae.decode_window(z, start, start + size)
    return (pixels.float() / 2 + 0.5).clamp(0, 1).transpose(1, 2)


def _facts(settings: Settings, painter: ModelPainter, weights: Mapping[str, float], sampler: str) -> dict[str, Any]:
    """How it was trained, for the adapter's metadata."""
    return {
        "rewards": dict(weights),
        "method": settings.method,
        **(settings.gradient.model_dump(include={"choice", "estimate"}) if settings.method == "gradient" else {}),
        "guidance_scale": painter.scales,
        "sampler": sampler,
        "steps": len(painter.sigmas) - 1,
        "timesteps": [float(t) for t in painter.schedule.timesteps(painter.sigmas[:-1])],
        "anchor": settings.anchor,
        **({"agreement": settings.agreement.weight} if settings.agreement else {}),
        "trained": settings.train,
    }


def memory(recipe: Recipe, fetch: bool) -> MemoryPlan:
    """As ``frolic.train.tasks.reward_memory.reward_memory``."""
    from frolic.train.tasks.reward_memory import reward_memory  # which asks for this file's settings

    return reward_memory(recipe, fetch)


JOB = JobKind(build, {"job": Settings, "data": Data, "model": Base}, memory)
