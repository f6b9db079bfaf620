"""``kind: preference``: learn from pairs of pictures or clips, and choices between them, a reward of one's own.

B pairs, T frames, D embedding, K numbers that describe a clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from frolic.config import Count, Positive, Recipe, Section
from frolic.data.pairs import Pair, mark_of, pixels, read_pairs
from frolic.errors import CheckpointError, FileError
from frolic.io.safetensors import fingerprint
from frolic.models.dual import PreferenceHead, describe, described, parts
from frolic.rewards.dual import WEIGHTS, Prompts, read_dual, reader_for, shipped
from frolic.rewards.preference import Learned, PreferenceConfig, read_preference, reduced, write_preference
from frolic.train.jobs import Job, JobKind
from frolic.train.objectives.preference import Choices, Described, agreement

_GOALS = {"left": 1.0, "right": 0.0, "equal": 0.5}


class Settings(Section):
    """``hidden`` units that bend the linear score; ``held_out``: the share of pairs that is only measured with.
    ``prior`` holds weights near 0, as if they were drawn from a normal distribution of variance ``1 / prior``: the more
    choices there are, the less it matters."""

    hidden: Count = 0
    prior: Annotated[float, Field(ge=0)] = 0.05
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.2


class Model(Section):
    """``base``: the dual encoder's folder, the shipped one if not set; ``text``: the folder of the model whose text
    encoder that reads, the starter's if not set. ``prompts``: whether the prompt may matter. ``frames`` of a clip are
    looked at."""

    base: str | None = None
    text: str | None = None
    prompts: bool = True
    frames: Positive = 8


class Data(Section):
    """``pairs``: the file of choices (``frolic.data.pairs``)."""

    pairs: str


def build(recipe: Recipe) -> Job:
    settings, data = recipe.section("job", Settings), recipe.section("data", Data)
    model = recipe.section("model", Model)
    folder = Path(model.base).expanduser() if model.base else shipped()
    encoder, mark = read_dual(folder)
    side = encoder.config.side

    def look(path: Path) -> Tensor:
        """[t, 3, P, P] in [0, 1]."""
        frames = torch.from_numpy(pixels(path).copy())
        return reduced(frames[None].movedim(-1, 2).float() / 255, model.frames, side)[0]

    pairs, seen = read_pairs(Path(data.pairs).expanduser(), look)
    prompts: Prompts | None = None
    if model.prompts:
        prompts = Prompts(reader_for(mark, Path(model.text).expanduser() if model.text else None), encoder)

    def numbers(some: Sequence[Pair], clips: Sequence[Path]) -> Tensor:
        """[N, K], one clip at a time: its numbers must not depend on how many there are."""
        rows = [torch.zeros(0, described(encoder.config, model.prompts))]
        with torch.no_grad():
            for pair, clip in zip(some, clips, strict=True):
                texts = None if prompts is None else prompts.embed([pair.prompt], torch.device("cpu"))
                rows.append(describe(encoder, seen[clip][None], texts))
        return torch.cat(rows)

    def as_numbers(some: Sequence[Pair]) -> Described:
        left, right = numbers(some, [p.left for p in some]), numbers(some, [p.right for p in some])
        return Described(left, right, torch.tensor([_GOALS[pair.choice] for pair in some]))

    kept = [pair for pair in pairs if not pair.held_out(settings.held_out)]
    held = [pair for pair in pairs if pair.held_out(settings.held_out)]
    if not kept:
        raise FileError(f"All {len(pairs)} pairs of {data.pairs} are held out to measure with; choose between more.")
    training, measuring = as_numbers(kept), as_numbers(held)
    torch.manual_seed(recipe.trainer.seed)
    head = PreferenceHead(described(encoder.config, model.prompts), settings.hidden)
    head.fit(torch.cat([training.left, training.right]), parts(encoder.config, model.prompts))

    def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
        learned = modules["head"]
        assert isinstance(learned, PreferenceHead)
        config = PreferenceConfig(
            dual=encoder.config,
            hidden=settings.hidden,
            frames=model.frames,
            prompts=model.prompts,
            text_encoder=mark,
            pairs=len(pairs),
            pairs_hash=mark_of(pairs),
            held_out=len(held),
            agreement=agreement(learned, measuring),
        )
        write_preference(config, Learned(encoder, learned), folder)

    def warm_start(path: Path) -> None:
        config, learned = read_preference(path)
        if learned.head.linear.weight.shape != head.linear.weight.shape or config.hidden != settings.hidden:
            raise CheckpointError(f"{path} was learned with other settings of job.hidden or model.prompts.")
        head.load_state_dict(learned.head.state_dict())

    return Job(
        objective=Choices(head, settings.prior / len(training)),
        source=training,
        export=export,
        warm_start=warm_start,
        inputs={"dual encoder": fingerprint([folder / WEIGHTS]), "set of pairs": mark_of(pairs)},
    )


JOB = JobKind(build, {"job": Settings, "data": Data, "model": Model})
