"""``frolic eval starter-video``: draw clips of held-out prompts, and see what is in them and what it does.

T frames, H/W sides of a frame.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.data.heldout import reserved
from frolic.data.starter import animated
from frolic.errors import RequestError, nearest
from frolic.eval.judge import Judge
from frolic.eval.scoring import seen_alone, shares
from frolic.eval.suites import Known
from frolic.eval.tracking import MOVES, Track, is_static, said_by, track

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
SUITES = ("everyday", "motion", "object", "emoji", "still")
LIVELY = "lively"
"""The move of what moves by itself, where it is."""
_ELSEWHERE = ("left", "right", "up", "down", "fall")


@dataclass(frozen=True)
class Moving:
    """One prompt, and what its clip must show: a concept by its code, and a move; "" where none is asked for."""

    suite: str
    prompt: str
    code: str
    move: str


@dataclass(frozen=True)
class Row:
    """One judged clip. ``seen`` is the concept of its middle frame and ``found`` the move; ``stir`` is how much happens
    in it, in shades of 255. ``parts``: the ``object`` and the ``motion`` are right; it is ``moving``, which one that
    should not is not."""

    suite: str
    prompt: str
    code: str
    seed: int
    seen: str
    seen_name: str
    move: str
    found: str
    stir: float
    parts: dict[str, bool]
    correct: bool


@dataclass(frozen=True)
class Summary:
    """A suite as a whole: ``accuracy`` is the share of clips with the right thing and the right motion, ``ceiling``
    what share of true clips of the suite's prompts passes; ``moves`` are the shares of right motions, ``static`` how
    many clips stand still that should not."""

    suite: str
    n: int
    correct: int
    accuracy: float
    ceiling: float | None
    parts: dict[str, float]
    moves: dict[str, float]
    static: int
    seed: int
    seconds: float


def suite(name: str, concepts: Sequence[Known], limit: int | None = None) -> list[Moving]:
    """The cases of a suite, the first ``limit`` of them, which ask for all moves in turn.

    ``motion`` of all things and ``everyday`` of everyday ones are combinations that training leaves out, as many of
    each move; ``still`` asks for nothing to happen; ``object`` only names everyday things; ``emoji`` asks for what
    things do by themselves, which is trained.

    Raises:
        RequestError: there is no such suite, or no concept for it.
    """
    if name not in SUITES:
        known = ", ".join([*SUITES, "all"])
        raise RequestError(f"Choose a suite of {known}: {name!r} is not known{nearest(name, SUITES)}.")
    if limit is not None and limit < 1:
        raise RequestError("Give --limit at least 1.")
    if name == "object":
        cases = _drawn(name, [Moving(name, one.phrase, one.code, "") for one in concepts if one.everyday and one.noun])
    elif name == "emoji":
        cases = _drawn(name, _lively(concepts))
    else:
        cases = _doing(name, concepts)
    if not cases:
        raise RequestError(f"The judge knows no concepts for the suite {name}; train it on a newer training set.")
    return cases[:limit]


def _doing(name: str, concepts: Sequence[Known]) -> list[Moving]:
    things = [concept for concept in concepts if concept.noun and (name != "everyday" or concept.everyday)]
    moves = ("still",) if name == "still" else MOVES[:-1]
    cases: list[list[Moving]] = []
    for move in moves:
        kept = [thing for thing in things if reserved("motion", thing.code, move)]
        picked = random.Random(f"{move} {SEED}").sample(kept, min(len(kept), SIZE // len(moves)))
        cases.append([Moving(name, f"{thing.phrase} {PHRASES[move]}", thing.code, move) for thing in picked])
    # In turn, so that the first few have all moves.
    return [part[index] for index in range(max(map(len, cases))) for part in cases if index < len(part)]


def _lively(concepts: Sequence[Known]) -> list[Moving]:
    verbs = animated.verbs()
    # A name without a noun is often that of several: a bride has a veil, and a driver may be a man.
    made = ((one, verbs[one.code][0]) for one in concepts if one.noun and verbs.get(one.code))
    return [Moving("emoji", f"{one.caption} {verb}".strip(), one.code, LIVELY) for one, verb in made]


def _drawn(name: str, cases: Sequence[Moving]) -> list[Moving]:
    return random.Random(f"{name} {SEED}").sample(cases, min(len(cases), SIZE))


def names(name: str) -> tuple[str, ...]:
    """The suites that ``--suite`` means."""
    return SUITES if name == "all" else (name,)


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
    followed = track(frames)
    found, static = said_by(followed), is_static(followed)
    middle = torch.from_numpy(np.array(frames[len(frames) // 2])).permute(2, 0, 1)[None].float() / 127.5 - 1
    seen = judge.best(seen_alone(judge.look(_large(_upright(middle, followed, found)))[0], judge), 1)[0]
    parts = {"object": seen == case.code}
    if case.move:
        parts["motion"] = found == case.move if case.move != LIVELY else found not in _ELSEWHERE and not static
        parts["moving"] = static if case.move == "still" else not static
    return Row(
        suite=case.suite,
        prompt=case.prompt,
        code=case.code,
        seed=seed,
        seen=seen,
        seen_name=called[seen],
        move=case.move,
        found=found,
        stir=round(followed.stir, 2),
        parts=parts,
        correct=parts["object"] and parts.get("motion", True),
    )


def _upright(picture_13HW: Tensor, followed: Track, found: str) -> Tensor:
    """A frame of what spins, turned back: nobody knows a cup by its bottom up."""
    if found != "spin":
        return picture_13HW
    middle = len(followed.turned) // 2
    angle = -float(followed.turned[middle])
    x, y = 2 * float(followed.x[middle]) - 1, 2 * float(followed.y[middle]) - 1
    cos, sin = math.cos(-angle), math.sin(-angle)
    turn = torch.tensor([[cos, -sin], [sin, cos]])
    place = torch.tensor([[x], [y]])
    # About the thing's middle, which stays where it is.
    theta = torch.cat([turn, place - turn @ place], 1)[None]
    grid = F.affine_grid(theta, list(picture_13HW.shape), align_corners=False)
    return F.grid_sample(picture_13HW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _large(picture: Tensor, side: int = 256) -> Tensor:
    """At the size that the judge was made for."""
    return F.interpolate(picture, (side, side), mode="bilinear", align_corners=False)


def summarise(name: str, rows: Sequence[Row], seed: int, started: float) -> Summary:
    """``started`` is ``time.monotonic()`` at the beginning of the run."""
    correct = sum(each.correct for each in rows)
    asked = dict.fromkeys(each.move for each in rows if each.move)
    moves = {move: [each.parts["motion"] for each in rows if each.move == move] for move in asked}
    return Summary(
        suite=name,
        n=len(rows),
        correct=correct,
        accuracy=round(correct / len(rows), 4),
        ceiling=ceilings().get(name, {}).get("accuracy"),
        parts=shares([each.parts for each in rows]),
        moves={move: round(sum(values) / len(values), 4) for move, values in moves.items()},
        static=sum(each.move not in ("", "still") and not each.parts["moving"] for each in rows),
        seed=seed,
        seconds=round(time.monotonic() - started, 2),
    )


def ceilings() -> Mapping[str, dict[str, Any]]:
    """What true clips of the suites' prompts get, by suite: what ``--true`` printed."""
    return dict(json.loads(resources.files(__package__).joinpath("video.json").read_text("utf-8")))


def filmstrips(clips: Sequence[np.ndarray], count: int = 6) -> list[np.ndarray]:
    """Of each clip ``count`` frames, evenly spread, side by side: bytes [H, count W, 3]."""
    made = []
    for frames in clips:
        shown = [frames[round((len(frames) - 1) * n / max(1, count - 1))] for n in range(count)]
        made.append(np.concatenate(shown, axis=1))
    return made
