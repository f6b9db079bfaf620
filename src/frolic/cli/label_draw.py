"""Pairs for ``frolic reward label``: each prompt drawn twice, with two seeds or by two models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frolic.data.asking import Question, open_asked, rows_of
from frolic.errors import FileError

if TYPE_CHECKING:
    from frolic.pipeline import Pipeline
    from frolic.strength import Strength

PICTURES = "pictures"
Say = Callable[[int, int], None]


@dataclass(frozen=True)
class Painter:
    """A model, as ``frolic.load`` takes it, with adapters."""

    model: str
    loras: Mapping[str, Strength] = field(default_factory=dict)


def pairs_to_draw(prompts: Sequence[str], each: int, seed: int, two: bool) -> list[tuple[str, int, int]]:
    """Prompt, and the seeds of its two pictures: neighbours, or of two painters the same."""
    if two:
        return [(prompt, seed + n, seed + n) for prompt in prompts for n in range(each)]
    return [(prompt, seed + 2 * n, seed + 2 * n + 1) for prompt in prompts for n in range(each)]


def draw(
    folder: Path,
    painters: tuple[Painter, Painter],
    wanted: Sequence[tuple[str, int, int]],
    options: Mapping[str, Any],
    say: Say,
) -> list[Question]:
    """All pairs in ``folder``, those of before and ``wanted``. A picture that is there is not drawn again, so drawing
    goes on where it was stopped.

    Raises:
        RequestError, ModelError, FileError, ResourceError: as ``frolic.load`` and drawing.
    """
    (folder / PICTURES).mkdir(exist_ok=True)
    lines, known = open_asked(folder)
    try:
        keys = {question.key for question in known}
        one = painters[0] == painters[1]
        total = 2 * len(wanted)
        sides: list[list[str]] = []
        for number, painter in enumerate(painters[:1] if one else painters):  # one model at a time in memory
            jobs = [(p, s) for p, *seeds in wanted for s in (seeds if one else seeds[number : number + 1])]
            sides.append(_drawn(folder, painter, jobs, options, _from(number * len(jobs), total, say)))
        firsts, seconds = (sides[0][::2], sides[0][1::2]) if one else sides
        for (prompt, *_), left, right in zip(wanted, firsts, seconds, strict=True):
            question = Question.of(prompt, left, right)
            if left != right and question.key not in keys:
                lines.append(rows_of([question])[0])
                keys.add(question.key)
                known.append(question)
        return known
    finally:
        lines.close()


def _from(before: int, total: int, say: Say) -> Callable[[int], None]:
    return lambda done: say(before + done, total)


def _drawn(
    folder: Path,
    painter: Painter,
    jobs: Sequence[tuple[str, int]],
    options: Mapping[str, Any],
    say: Callable[[int], None],
) -> list[str]:
    import frolic

    pipe = frolic.load(painter.model)
    style = _style(pipe, painter, options)
    names = []
    for done, (prompt, seed) in enumerate(jobs, 1):
        said = json.dumps([style, prompt, seed], sort_keys=True)
        stem = f"{PICTURES}/{hashlib.sha256(said.encode()).hexdigest()[:20]}"
        found = next((name for name in (f"{stem}.png", f"{stem}.mp4") if (folder / name).is_file()), None)
        names.append(found or _one(pipe, painter, prompt, seed, options, folder, stem))
        say(done)
    return names


def _style(pipe: Pipeline, painter: Painter, options: Mapping[str, Any]) -> Any:
    """All that decides a picture but prompt and seed."""
    from frolic.adapters import resolve
    from frolic.io.safetensors import fingerprint

    loras = {}
    for source, strength in painter.loras.items():
        path = Path(resolve(source))
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        loras[fingerprint(files)] = strength.to_json()
    return [pipe.card.hash, loras, dict(options)]


def _one(
    pipe: Pipeline, painter: Painter, prompt: str, seed: int, options: Mapping[str, Any], folder: Path, stem: str
) -> str:
    result = pipe(prompt, seed=seed, loras=dict(painter.loras), **options)
    name = f"{stem}.mp4" if result.videos else f"{stem}.png"
    try:
        result.save(folder / name)
    except FileError:
        if not (folder / name).is_file():  # another process may have been faster
            raise
    return name
