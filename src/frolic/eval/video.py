"""``frolic eval starter-video``: draw clips of held-out prompts, and see what is in them and what it does.

T frames, H/W sides of a frame.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from frolic.data.heldout import reserved
from frolic.errors import RequestError, nearest
from frolic.eval.judge import Judge
from frolic.eval.scoring import seen_alone, shares
from frolic.eval.suites import Known
from frolic.eval.tracking import MOVES, is_static, said_by, track

if TYPE_CHECKING:
    from frolic.pipeline import Pipeline

Film: TypeAlias = Callable[[list[str], int], "list[np.ndarray]"]
"""``(prompts, seed) -> clips``, bytes [T, H, W, 3]; clip k depends on its prompt and ``seed + k`` only."""

SIZE = 200
SEED = 6
PHRASES: Mapping[str, str] = {
    "left": "moving to the left",
    "right": "moving to the right",
    "up": "moving up",
    "down": "moving down",
    "fall": "falling",
    "bounce": "bouncing",
    "spin": "spinning",
    "grow": "growing",
    "shrink": "shrinking",
    "orbit": "moving in a circle",
    "still": "standing still",
}
SUITES = ("motion", "everyday", "still")


@dataclass(frozen=True)
class Moving:
    """One prompt, and what its clip must show: a concept by its code, and a move."""

    suite: str
    prompt: str
    code: str
    move: str


@dataclass(frozen=True)
class Row:
    """One judged clip. ``seen`` is the concept of its middle frame and ``found`` the move; ``change`` is how far its
    frames differ from the first, in shades of 255. ``parts``: the ``object`` and the ``motion`` are right; it is
    ``moving``, which one that should not is not."""

    suite: str
    prompt: str
    code: str
    seed: int
    seen: str
    seen_name: str
    move: str
    found: str
    change: float
    parts: dict[str, bool]
    correct: bool


@dataclass(frozen=True)
class Summary:
    """A suite as a whole: ``accuracy`` is the share of clips with the right thing and the right motion."""

    suite: str
    n: int
    correct: int
    accuracy: float
    parts: dict[str, float]
    moves: dict[str, float]
    static: int
    seed: int
    seconds: float


def suite(name: str, concepts: Sequence[Known], limit: int | None = None) -> list[Moving]:
    """The cases of a suite, ``limit`` of them evenly spaced: ``motion`` of all things and ``everyday`` of everyday ones
    are combinations that training leaves out, as many of each move; ``still`` asks for nothing to happen.

    Raises:
        RequestError: there is no such suite, or no concept for it.
    """
    if name not in SUITES:
        known = ", ".join([*SUITES, "all"])
        raise RequestError(f"Choose a suite of {known}: {name!r} is not known{nearest(name, SUITES)}.")
    if limit is not None and limit < 1:
        raise RequestError("Give --limit at least 1.")
    things = [concept for concept in concepts if concept.noun and (name != "everyday" or concept.everyday)]
    moves = ("still",) if name == "still" else MOVES[:-1]
    cases: list[list[Moving]] = []
    for move in moves:
        kept = [thing for thing in things if reserved("motion", thing.code, move)]
        picked = random.Random(f"{move} {SEED}").sample(kept, min(len(kept), SIZE // len(moves)))
        cases.append([Moving(name, f"{thing.phrase} {PHRASES[move]}", thing.code, move) for thing in picked])
    # In turn, so that the first few have all moves.
    turned = [part[index] for index in range(max(map(len, cases))) for part in cases if index < len(part)]
    if not turned:
        raise RequestError(f"The judge knows no concepts for the suite {name}; train it on a newer training set.")
    count = len(turned) if limit is None else min(limit, len(turned))
    return [turned[index * len(turned) // count] for index in range(count)]


def filmer(pipe: Pipeline, **options: Any) -> Film:
    """``pipe`` as a ``Film``; ``options`` are fields of ``Request``, None meaning the model's own."""

    def film(prompts: list[str], seed: int) -> list[np.ndarray]:
        videos = pipe(prompts, seed=seed, **options).videos
        if not videos:
            raise RequestError(f"The model {pipe.card.name} draws pictures; choose one of videos with --model.")
        return list(videos)

    return film


def evaluate(
    film: Film, judge: Judge, cases: Sequence[Moving], seed: int, batch: int
) -> Iterator[tuple[Row, np.ndarray]]:
    """Each case's row and clip, in order; clip k has seed ``seed + k`` in any batch size."""
    if batch < 1:
        raise RequestError("Give --batch at least 1.")
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        made = film([case.prompt for case in part], seed + start)
        for offset, (case, frames) in enumerate(zip(part, made, strict=True)):
            yield row(case, frames, judge, seed + start + offset), frames


def row(case: Moving, frames: np.ndarray, judge: Judge, seed: int) -> Row:
    called = {concept.code: concept.name for concept in judge.concepts}
    middle = torch.from_numpy(frames[len(frames) // 2]).permute(2, 0, 1)[None].float() / 127.5 - 1
    seen = judge.best(seen_alone(judge.look(_large(middle))[0], judge), 1)[0]
    followed = track(frames)
    found, static = said_by(followed), is_static(followed)
    asks = case.move != "still"
    parts = {"object": seen == case.code, "motion": found == case.move, "moving": not static if asks else static}
    return Row(
        suite=case.suite,
        prompt=case.prompt,
        code=case.code,
        seed=seed,
        seen=seen,
        seen_name=called[seen],
        move=case.move,
        found=found,
        change=round(followed.change, 2),
        parts=parts,
        correct=parts["object"] and parts["motion"],
    )


def _large(picture: Tensor, side: int = 256) -> Tensor:
    """At the size that the judge was made for."""
    return torch.nn.functional.interpolate(picture, (side, side), mode="bilinear", align_corners=False)


def summarise(name: str, rows: Sequence[Row], seed: int, started: float) -> Summary:
    """``started`` is ``time.monotonic()`` at the beginning of the run."""
    correct = sum(each.correct for each in rows)
    moves = {move: [each.parts["motion"] for each in rows if each.move == move] for move in MOVES}
    return Summary(
        suite=name,
        n=len(rows),
        correct=correct,
        accuracy=round(correct / len(rows), 4),
        parts=shares([each.parts for each in rows]),
        moves={move: round(sum(values) / len(values), 4) for move, values in moves.items() if values},
        static=sum(each.move != "still" and not each.parts["moving"] for each in rows),
        seed=seed,
        seconds=round(time.monotonic() - started, 2),
    )


def filmstrips(clips: Sequence[np.ndarray], count: int = 6) -> list[np.ndarray]:
    """Of each clip ``count`` frames, evenly spread, side by side: bytes [H, count W, 3]."""
    made = []
    for frames in clips:
        shown = [frames[round((len(frames) - 1) * n / max(1, count - 1))] for n in range(count)]
        made.append(np.concatenate(shown, axis=1))
    return made
