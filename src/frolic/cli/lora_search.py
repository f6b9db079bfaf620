"""The search of ``frolic lora explore --reward``: which blend rewards like best, under a floor.

R rewards, B pictures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from frolic.errors import RequestError
from frolic.lora.search import Outcome, Tried, Weights, best, least_budget, search
from frolic.strength import Blend, Strength

if TYPE_CHECKING:
    from torch import Tensor

    from frolic.lora.adapter import Loaded
    from frolic.pipeline import Pipeline
    from frolic.rewards import Combined, Wanted

_AT_ONCE = 64
"""Pictures that are drawn by one request; of clips those of one blend."""
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FLOOR = re.compile(rf"(?P<value>[+-]?{_NUMBER})|plain(?:(?P<change>[+-]{_NUMBER})(?P<share>%?))?")


@dataclass(frozen=True)
class Floor:
    """What a blend must reach of a reward: ``value``, or that of the plain model with ``change`` added, which is a
    share of it where ``relative``."""

    wanted: Wanted
    value: float | None
    change: float = 0.0
    relative: bool = False

    def least(self, plain: float) -> float:
        """Where the plain model reaches ``plain``."""
        if self.value is not None:
            return self.value
        return plain + (self.change * abs(plain) if self.relative else self.change)


def floor_shown(text: str) -> str:
    """A floor as it was spelled, but for secrets of an address."""
    from frolic.rewards.spec import shown

    spec, _, value = text.rpartition(":")
    return f"{shown(spec)}:{value}"


def parse_floors(texts: Sequence[str]) -> list[Floor]:
    """Each of ``SPEC:VALUE``. Raises ConfigError, listing all that is none."""
    from frolic.errors import ConfigError
    from frolic.rewards import parse_rewards

    parts = [text.rpartition(":") for text in texts]
    values = [_FLOOR.fullmatch(value) for _, _, value in parts]
    if wrong := [floor_shown(text) for text, value in zip(texts, values, strict=True) if value is None]:
        raise ConfigError(
            f"--floor {', '.join(wrong)} is not SPEC:VALUE; the value is a number, plain, plain-0.02 or plain-5%."
        )
    wanted = parse_rewards([spec for spec, _, _ in parts]) if texts else []
    if weighed := [each.text for each in wanted if each.weight != 1]:
        raise ConfigError(f"A floor has no weight beside its value; write {', '.join(weighed)} with one number.")
    found = []
    for each, value in zip(wanted, values, strict=True):
        assert value is not None
        absolute = None if value["value"] is None else float(value["value"])
        share = bool(value["share"])
        found.append(Floor(each, absolute, float(value["change"] or 0) / (100 if share else 1), share))
    return found


@dataclass(frozen=True)
class Axis:
    """A weight that is searched for: of an adapter, in one expert where there are two."""

    source: str
    target: str = "auto"

    @property
    def label(self) -> str:
        """Short, for tables."""
        name = Path(self.source).name.removesuffix(".safetensors")
        return name if self.target == "auto" else f"{name} {self.target}"


@dataclass
class Search:
    """What is searched for. ``request``: other fields of every picture's request."""

    adapters: Sequence[str]
    prompts: Sequence[str]
    rewards: Sequence[str]
    floors: Sequence[str]
    combine: str
    low: float
    high: float
    budget: int
    seeds: int
    seed: int | None
    request: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def run(
        self, model: str, output: Path | None, record: Path, *, allow_partial: bool, force: bool, as_json: bool
    ) -> None:
        """Search, print the table, and write the best blend: as JSON at ``record``, as an adapter at ``output``.

        Raises:
            RequestError: something about it is wrong, or no blend reaches the floor.
        """
        from frolic.assemble import load
        from frolic.io.files import check_writable, write_json
        from frolic.rewards import Combined, make_rewards, parse_rewards
        from frolic.rewards.combine import MODES

        self._check(output)
        wanted, floors = parse_rewards(self.rewards), parse_floors(self.floors)
        if self.combine not in MODES[:2]:
            raise RequestError(f"--combine is sum or min, not {self.combine!r}: blends are not drawn as one batch.")
        check_writable(record, force=force)
        pipeline = load(model, allow_partial=allow_partial)
        axes = axes_of(self.adapters, pipeline.experts)
        for path in written(output, pipeline.experts):
            check_writable(path, force=force)
        if output is not None:
            blended(model, axes, [1.0] * len(axes), pipeline.experts, allow_partial)
        made = make_rewards([*wanted, *(floor.wanted for floor in floors)], pipeline.device)
        combined = Combined(made[: len(wanted)], [each.weight for each in wanted], self.combine)
        trial = Trial(self, pipeline, axes, combined, made[len(wanted) :], floors)
        least = least_budget(len(axes), self.low, self.high) * trial.pictures
        if self.budget < least:
            raise RequestError(
                f"--budget {self.budget} is too little for {len(axes)} weights, {len(self.prompts)} prompts and "
                f"{self.seeds} seeds: that takes {least} pictures or more."
            )
        tried = search(len(axes), self.low, self.high, self.budget // trial.pictures, trial.ask)
        chosen = best(tried)
        self._print(trial, tried, chosen, as_json)
        if not chosen.meets:
            raise RequestError(
                f"No blend reaches the floor; {trial.told(chosen)} lacks least, by {-chosen.outcome.slack:.4g}. Lower "
                "--floor, or look elsewhere with --low and --high."
            )
        facts = trial.facts(tried, chosen)
        write_json(record, {"schema": 1, "model": pipeline.card.name, **facts}, force=force)
        said = {"event": "best", "path": str(record), **{key: facts[key] for key in ("lora", "score", "plain", "seed")}}
        typer.echo(json.dumps(said) if as_json else f"{record}  {trial.told(chosen)}, seed {trial.seed}")
        if output is not None:
            self._write(trial, chosen, model, output, allow_partial, force, as_json)

    def _check(self, output: Path | None) -> None:
        problems = []
        if output is not None and output.suffix != ".safetensors":
            problems.append(f"{output} is no place for a blend; end it in .safetensors")
        if not self.prompts:
            problems.append('there is no prompt; say what to draw, as in --prompt "a cat"')
        if len(set(self.adapters)) < len(self.adapters):
            problems.append("an adapter is given twice")
        if len(self.adapters) > 6:
            problems.append(f"{len(self.adapters)} adapters have too many blends; give at most 6")
        if problems:
            raise RequestError(f"Change the search: {'; '.join(problems)}.")

    def _print(self, trial: Trial, tried: Sequence[Tried], chosen: Tried, as_json: bool) -> None:
        from frolic.cli.lora import safe
        from frolic.cli.reward_score import table

        for note in dict.fromkeys(self.notes):
            typer.echo(safe(note), err=True)
        if as_json:
            for each in tried:
                typer.echo(json.dumps({"event": "blend", **trial.row(each), "best": each is chosen}))
            return
        several = [] if len(trial.combined.rewards) == 1 else [self.combine]
        head = ["", *(axis.label for axis in trial.axes), *trial.names, *several]
        rows = [head]
        for each in tried:
            mark = "best" if each is chosen and each.meets else "" if each.meets else "below"
            whole = [f"{each.outcome.score:.4f}"] if several else []
            values = [f"{value:.4f}" for value in trial.means[each.weights]]
            rows.append([mark, *(f"{weight:g}" for weight in each.weights), *values, *whole])
        typer.echo("\n".join(table(rows)))

    def _write(
        self, trial: Trial, chosen: Tried, model: str, output: Path, allow_partial: bool, force: bool, as_json: bool
    ) -> None:
        from frolic.cli.lora import target_of, write_blend

        experts = trial.pipeline.experts
        made = blended(model, trial.axes, chosen.weights, experts, allow_partial)
        for path, parts in zip(written(output, experts), made, strict=True):
            if not parts:
                typer.echo(f"{path} is not written: the best blend has nothing in it", err=True)
                continue
            goal = target_of(model)
            write_blend({"": parts}, path, goal, "diffusers", "sum", None, 1.0, 0, "bfloat16", force, as_json)


class Trial:
    """Draws blends and has them scored. ``means``: by weights, of every reward and every floor's."""

    def __init__(
        self,
        asked: Search,
        pipeline: Pipeline,
        axes: Sequence[Axis],
        combined: Combined,
        floor_rewards: Sequence[Any],
        floors: Sequence[Floor],
    ) -> None:
        from frolic.cli.reward_score import labels
        from frolic.request import Request
        from frolic.rewards import parse_rewards

        self.asked, self.pipeline, self.axes = asked, pipeline, axes
        self.combined, self.floor_rewards, self.floors = combined, list(floor_rewards), floors
        self.seed = Request.of("", seed=asked.seed).seeded().seeds[0]
        self.pictures = len(asked.prompts) * asked.seeds
        wanted = parse_rewards(asked.rewards)
        self.names = labels(combined.rewards, wanted) + [f"{each.name} (floor)" for each in floor_rewards]
        self.means: dict[Weights, list[float]] = {}
        self.least: list[float] = []

    def ask(self, blends: Sequence[Weights]) -> list[Outcome]:
        """What each of ``blends`` is worth. The first question says how much rewards vary, and what the plain model
        reaches."""
        scores = [each for part in self._parts(blends) for each in self._scored(part)]
        many = len(self.combined.rewards)
        if not self.means:
            import torch

            if many > 1:
                self.combined = self.combined.measured(torch.cat([each[:many] for each in scores], dim=1))
            plain = scores[0].mean(dim=1).tolist()
            self.least = [floor.least(value) for floor, value in zip(self.floors, plain[many:], strict=True)]
        found = []
        for weights, each in zip(blends, scores, strict=True):
            self.means[weights] = means = each.mean(dim=1).tolist()
            slack = [value - least for value, least in zip(means[many:], self.least, strict=True)]
            score = float(self.combined.together(each[:many]).mean())
            found.append(Outcome(score, min(slack, default=float("inf"))))
        return found

    def blend(self, weights: Weights) -> Blend:
        """As a request takes it."""
        pairs = zip(self.axes, weights, strict=True)
        return tuple((axis.source, Strength(weight, target=axis.target)) for axis, weight in pairs)

    def told(self, tried: Tried) -> str:
        """A blend as ``--lora`` takes it."""
        return " ".join(f"--lora {each}" for each in self._loras(tried))

    def _loras(self, tried: Tried) -> list[str]:
        pairs = zip(self.axes, tried.weights, strict=True)
        return [
            f"{axis.source}:{weight:g}" + ("" if axis.target == "auto" else f",target={axis.target}")
            for axis, weight in pairs
        ]

    def row(self, tried: Tried) -> dict[str, Any]:
        """A line of the table."""
        return {
            "weights": list(tried.weights),
            "scores": dict(zip(self.names, self.means[tried.weights], strict=True)),
            "score": tried.outcome.score,
            "meets": tried.meets,
        }

    def facts(self, tried: Sequence[Tried], chosen: Tried) -> dict[str, Any]:
        """All of a search, as JSON."""
        from frolic.rewards.spec import shown

        scales = self.combined.scales or ()
        return {
            "adapters": [
                {"source": axis.source, "target": axis.target, "weight": weight}
                for axis, weight in zip(self.axes, chosen.weights, strict=True)
            ],
            "lora": self._loras(chosen),
            "score": chosen.outcome.score,
            "plain": tried[0].outcome.score,
            "rewards": [shown(text) for text in self.asked.rewards],
            "combine": self.asked.combine,
            "scales": [{"centre": scale.centre, "deviation": scale.deviation} for scale in scales],
            "floors": [
                {"floor": floor_shown(text), "least": least}
                for text, least in zip(self.asked.floors, self.least, strict=True)
            ],
            "prompts": list(self.asked.prompts),
            "seed": self.seed,
            "seeds": self.asked.seeds,
            "request": {key: value for key, value in self.asked.request.items() if value is not None},
            "pictures": len(tried) * self.pictures,
            "table": [self.row(each) for each in tried],
        }

    def _parts(self, blends: Sequence[Weights]) -> list[Sequence[Weights]]:
        size = 1 if self.pipeline.makes_clips else max(1, _AT_ONCE // self.pictures)
        return [blends[first : first + size] for first in range(0, len(blends), size)]

    def _scored(self, blends: Sequence[Weights]) -> list[Tensor]:
        """Of each blend [R, B]: the rewards, then those of the floors."""
        import torch

        from frolic.rewards.base import finite

        asked = self.asked
        prompts = [prompt for prompt in asked.prompts for _ in range(asked.seeds)]
        result = self.pipeline(
            prompts * len(blends),
            seed=[self.seed + number for number in range(asked.seeds)] * (len(asked.prompts) * len(blends)),
            loras=[self.blend(weights) for weights in blends for _ in prompts],
            output="tensor",
            **asked.request,
        )
        self.asked.notes += result.notes
        assert result.pixels is not None
        # What a file would hold, so that the same blend scores the same when it is drawn and saved.
        frames = ((result.pixels.clamp(-1, 1) + 1) * 127.5).round() / 255
        frames = frames[:, None] if frames.ndim == 4 else frames.transpose(1, 2)
        rewards = [*self.combined.rewards, *self.floor_rewards]
        if short := [each.name for each in rewards if each.least_frames > frames.shape[1]]:
            raise RequestError(f"{', '.join(short)} needs more than {frames.shape[1]} frames; give more with --frames.")
        there = (frame[None].to(self.pipeline.device) for frame in frames)  # where the rewards are
        with torch.inference_mode():
            # One after the other: a reward's own network is often larger than what draws.
            rows = [
                torch.stack([finite(each.name, each.score(x, [text])).float().cpu()[0] for each in rewards])
                for x, text in zip(there, prompts * len(blends), strict=True)
            ]
        return list(torch.stack(rows, dim=1).split(len(prompts), dim=1))


def axes_of(sources: Sequence[str], experts: Sequence[str]) -> list[Axis]:
    """A weight for each adapter; of a model with two experts, two for one whose file does not say which it is for.

    Raises:
        ModelNotFoundError, UnsafeFileError, CheckpointError: as ``frolic.adapters.resolve`` and ``find``.
    """
    from frolic.adapters import find, resolve
    from frolic.lora.experts import said_by

    axes = []
    for source in sources:
        found = find(resolve(source))
        both = experts and not said_by(found.name, found.entries(), found.metadata())
        axes += [Axis(source, target) for target in (experts if both else ("auto",))]
    return axes


def written(output: Path | None, experts: Sequence[str]) -> list[Path]:
    """The files that a blend becomes: one, or one for each expert."""
    if output is None:
        return []
    return [output.with_stem(f"{output.stem}_{expert}") for expert in experts] or [output]


def blended(
    model: str, axes: Sequence[Axis], weights: Sequence[float], experts: Sequence[str], allow_partial: bool
) -> list[list[tuple[Loaded, float]]]:
    """What each file of ``written`` is made of. Raises RequestError where an adapter cannot be summed with others."""
    from frolic.adapters import load
    from frolic.cli.lora import target_of
    from frolic.lora.blend import exact
    from frolic.lora.experts import HIGH

    goal, made = target_of(model), []
    for expert in experts or ("",):
        parts = []
        for axis, weight in zip(axes, weights, strict=True):
            if not weight or (expert and axis.target not in ("auto", expert)):
                continue
            loaded = load(axis.source, goal, allow_partial=allow_partial, expert=expert or HIGH)
            if not expert or loaded.expert in ("", expert):
                parts.append((replace(loaded, expert=expert or loaded.expert), weight))
        exact([(loaded.adapter, weight) for loaded, weight in parts])
        made.append(parts)
    return made
