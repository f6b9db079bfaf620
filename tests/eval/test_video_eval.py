"""The evaluation of clips: true ones pass, and what would fool it does not."""

from __future__ import annotations

import json
import time
from collections import Counter
from random import Random

import numpy as np
import pytest
import torch

from frolic.data.heldout import reserved
from frolic.data.motion import Actor, Clip, render_clip
from frolic.data.moves import Move, move
from frolic.errors import RequestError
from frolic.eval import tracking, video
from frolic.eval.judge import Judge
from frolic.eval.tracking import MOVES, is_static, motion, said_by, track


def sprite(seed: int) -> torch.Tensor:
    """Some thing of several colours, lopsided, so that turns can be seen."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.zeros(1, 4, 64, 64, dtype=torch.uint8)
    made[0, :3] = torch.randint(0, 200, (3, 8, 8), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    rows, columns = torch.meshgrid(torch.arange(64) - 32, torch.arange(64) - 32, indexing="ij")
    made[0, 3] = 255 * ((rows / 30) ** 2 + (columns / 18) ** 2 < 1)
    return made


def film(kind: str, seed: int, ground: str = "white") -> np.ndarray:
    actor = Actor(0, 0, move(kind, Random(seed)))
    clip = render_clip(sprite(seed), Clip("one", (actor,), ground, ("",), seed), 96, 96, 17)
    return clip.permute(1, 2, 3, 0).numpy()


@pytest.mark.parametrize("kind", MOVES)
def test_real_motion_is_found(kind: str) -> None:
    """On numbers and grounds of its own: at least nine in ten."""
    seen = [motion(film(kind, 1000 + seed, ("white", "blue", "pink", "green")[seed % 4])) for seed in range(20)]
    assert seen.count(kind) >= 18, Counter(seen)


def test_noise_and_other_ways_of_cheating_are_no_motion() -> None:
    still = film("still", 3)
    noisy = (still.astype(int) + np.random.default_rng(0).integers(-12, 13, still.shape)).clip(0, 255).astype(np.uint8)
    assert motion(noisy) == "still"
    assert is_static(track(still)) and not is_static(track(film("left", 3)))
    blank = np.full_like(still, 255)
    assert is_static(track(blank)) and motion(blank) == "still" and track(blank).seen == 0
    # A fade moves nothing, and a shaking thing goes nowhere.
    fade = np.stack([still[0] * (1 - n / 16) + 255 * n / 16 for n in range(17)]).astype(np.uint8)
    assert motion(fade) not in ("left", "right", "up", "down", "bounce", "spin", "orbit", "fall")
    shaken = np.stack([np.roll(still[0], (n % 2) * 2, axis=1) for n in range(17)])
    assert motion(shaken) == "still"


def test_backwards_is_the_other_way() -> None:
    for kind, other in (("left", "right"), ("up", "down"), ("grow", "shrink")):
        assert motion(film(kind, 5)[::-1]) == other


def test_suites_ask_for_what_training_left_out() -> None:
    judge = Judge.load()
    for name in video.SUITES:
        cases = video.suite(name, judge.concepts)
        assert len(cases) >= 80 and all(reserved("motion", case.code, case.move) for case in cases)
        assert cases == video.suite(name, judge.concepts)
    few = video.suite("everyday", judge.concepts, 20)
    assert {case.move for case in few} == set(MOVES[:-1])
    with pytest.raises(RequestError, match="did you mean 'motion'"):
        video.suite("motions", judge.concepts)


class Blind:
    """A judge that sees what it is told to."""

    def __init__(self, codes: list[str]) -> None:
        self.concepts = Judge.load().concepts
        self.codes = codes

    def look(self, pictures: torch.Tensor) -> list[object]:
        return [object()]

    def best(self, chances: object, count: int) -> tuple[str, ...]:
        return (self.codes.pop(0),)


@pytest.mark.parametrize(
    ("act", "object_right", "motion_right", "static"),
    [
        (lambda case, n: film(case.move, n), True, 1.0, 0),
        (lambda case, n: film("still", n), True, 0.0, 20),
        (lambda case, n: film(MOVES[(MOVES.index(case.move) + 1) % 10], n), True, 0.0, 0),
    ],
)
def test_scores_follow_what_is_shown(act, object_right, motion_right, static, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    cases = video.suite("everyday", Judge.load().concepts, 20)
    judge = Blind([case.code for case in cases])
    monkeypatch.setattr(video, "seen_alone", lambda sight, judge: None)
    by_prompt = {case.prompt: case for case in cases}
    made = video.evaluate(
        lambda prompts, seed: [act(by_prompt[prompt], seed + n) for n, prompt in enumerate(prompts)],
        judge, cases, 100, 8,
    )  # fmt: skip
    rows = [row for row, _ in made]
    whole = video.summarise("everyday", rows, 100, time.monotonic())
    assert [row.seed for row in rows] == list(range(100, 120))
    assert whole.parts["object"] == object_right and abs(whole.parts["motion"] - motion_right) <= 0.1
    assert whole.static == static and whole.accuracy == whole.parts["motion"]


def test_the_judge_names_the_thing_in_a_small_frame() -> None:
    """A wrong thing that moves rightly is wrong."""
    judge = Judge.load()
    case = video.suite("everyday", judge.concepts, 1)[0]
    row = video.row(case, film(case.move, 7), judge, 0)
    assert not row.parts["object"] and row.parts["motion"] and not row.correct


def test_filmstrips() -> None:
    (strip,) = video.filmstrips([film("left", 1)], 5)
    assert strip.shape == (96, 480, 3) and np.array_equal(strip[:, :96], film("left", 1)[0])


def test_the_command(command, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from tiny_wan import write_tiny_wan

    model = write_tiny_wan(tmp_path / "tiny")
    done = command("eval", "starter-video", "-m", model, "--suite", "all", "--limit", 2, "--steps", 1, "--json",
                   "--sheet", "strips.png")  # fmt: skip
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    summaries = [line for line in lines if "accuracy" in line]
    assert [line["suite"] for line in summaries] == list(video.SUITES) and all(line["n"] == 2 for line in summaries)
    assert (tmp_path / "strips.png").is_file() or __import__("pathlib").Path("strips.png").is_file()


def test_a_track_keeps_its_numbers() -> None:
    path = track(film("right", 2))
    assert path.x[0] < 0.35 and path.x[-1] > 0.65 and path.seen == 17
    assert said_by(path) == "right" and isinstance(path, tracking.Track)
    assert Move("left", 0.5, 0.5, 0.3, 0.2).at(0).x > Move("left", 0.5, 0.5, 0.3, 0.2).at(1).x
