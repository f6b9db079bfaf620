"""Clips of cut-outs that move: what is said is what is drawn."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest
import torch
from torch import Tensor

from frolic.data import moves
from frolic.data.heldout import reserved
from frolic.data.motion import Actor, Clip, clip, clips, is_reserved, render_clip
from frolic.data.moves import MOVES, Move, move
from frolic.data.scenes import Cast
from small_pack import small_concepts, small_sprites

T = 17


def tracks(kind: str, seed: int) -> list[moves.Pose]:
    chosen = move(kind, Random(seed))
    return [chosen.at(number / (T - 1)) for number in range(T)]


@pytest.mark.parametrize("seed", range(5))
def test_moves_do_what_they_are_called(seed: int) -> None:
    for kind, sign, axis in (("left", -1, "x"), ("right", 1, "x"), ("up", -1, "y"), ("down", 1, "y"), ("fall", 1, "y")):
        path = [getattr(pose, axis) for pose in tracks(kind, seed)]
        steps = [b - a for a, b in pairwise(path)]
        assert all(sign * step > 0 for step in steps) and abs(path[-1] - path[0]) > 0.29
        # A fall gets faster; the others keep their speed.
        assert (abs(steps[-1]) > 5 * abs(steps[0])) == (kind == "fall")
    hop = [pose.y for pose in tracks("bounce", seed)]
    lows = [n for n in range(1, T - 1) if hop[n] < min(hop[n - 1], hop[n + 1])]
    assert len(lows) == 2 and max(hop) - min(hop) > 0.25 and abs(hop[0] - hop[-1]) < 1e-6
    spin = [pose.angle for pose in tracks("spin", seed)]
    assert abs(abs(spin[-1] - spin[0]) - 2 * math.pi) < 1e-6
    sides = {kind: [pose.side for pose in tracks(kind, seed)] for kind in ("grow", "shrink", "still")}
    assert sides["grow"] == sorted(sides["grow"]) and sides["grow"][-1] > 1.85 * sides["grow"][0]
    assert sides["shrink"] == sorted(sides["shrink"], reverse=True) and sides["shrink"][0] > 1.85 * sides["shrink"][-1]
    assert len(set(tracks("still", seed))) == 1
    ring = tracks("orbit", seed)
    assert math.dist((ring[0].x, ring[0].y), (ring[8].x, ring[8].y)) > 0.33, "half way it is on the other side"
    assert math.dist((ring[0].x, ring[0].y), (ring[-1].x, ring[-1].y)) < 1e-6


@pytest.mark.parametrize("kind", MOVES)
def test_things_stay_in_the_picture(kind: str) -> None:
    for seed in range(20):
        for pose in tracks(kind, seed):
            assert 0 < pose.x < 1 and 0 < pose.y < 1 and 0.1 < pose.side < 1


def test_clips_depend_on_their_number_alone_and_show_nothing_reserved() -> None:
    concepts = small_concepts()
    made = clips(concepts, 60, 3)
    assert made == clips(concepts, 20, 3) + clips(concepts, 40, 3, start=20)
    assert made != clips(concepts, 60, 4)
    assert not any(is_reserved(one, concepts) for one in made)
    assert {one.kind for one in made} == {"one", "two", "around", "still"}
    cast = Cast(concepts)
    free = [clip(cast, "one", Random(seed)) for seed in range(300)]
    held = [one for one in free if reserved("motion", concepts[one.actors[0].concept].code, one.actors[0].move.kind)]
    assert held and all(is_reserved(one, concepts) for one in held)


def test_captions_name_the_thing_and_what_it_does() -> None:
    concepts = small_concepts()
    words = {kind: set(" ".join(moves.SAID[kind]).split()) for kind in MOVES}
    for one in clips(concepts, 160, 5):
        assert 1 <= len(one.captions) <= 3
        for caption in one.captions:
            assert caption == caption.lower() and len(caption.split()) <= 16
            said = set(caption.replace(",", "").split())
            for actor in one.actors:
                assert concepts[actor.concept].noun in caption
                # What is to stay may be named only.
                assert actor.move.kind == "still" or words[actor.move.kind] & said or one.kind == "around"
            if one.kind == "around":
                middle, other = (concepts[actor.concept].noun for actor in one.actors)
                assert any(f"{other} {way} a {middle}" in caption for way in moves.AROUND)
        if one.ground != "white":
            assert any(word in one.captions[0] for word in (one.ground, "night", "sky", "grass", "sea", "room"))


def test_the_way_around_that_is_not_said_is_clockwise() -> None:
    """Nothing else is left open of a turn, which a model would learn the mean of."""
    seen = set()
    for seed in range(200):
        rng = Random(seed)
        chosen = move(rng.choice(("spin", "orbit")), rng)
        text = moves.said(chosen, rng)
        assert ("counterclockwise" in text) == (chosen.way < 0)
        assert chosen.kind == "spin" or (chosen.at(0).x == 0.5 and chosen.at(0).y < 0.5)
        seen.add((chosen.kind, chosen.way))
    assert len(seen) == 4


def square(side: int = 32) -> Tensor:
    """One sprite: a red square whose upper half is blue."""
    sprite = torch.zeros(1, 4, side, side, dtype=torch.uint8)
    sprite[0, 0], sprite[0, 3] = 255, 255
    sprite[0, 0, : side // 2], sprite[0, 2, : side // 2] = 0, 255
    return sprite


def drawn(chosen: Move, frames: int = 5, size: tuple[int, int] = (64, 64)) -> Tensor:
    return render_clip(square(), Clip("one", (Actor(0, 0, chosen),), "white", ("a square",)), *size, frames)


def centre(mask_HW: Tensor) -> tuple[float, float]:
    rows, columns = mask_HW.nonzero().float().mean(0)
    return float(columns + 0.5) / mask_HW.shape[1], float(rows + 0.5) / mask_HW.shape[0]


def test_what_is_drawn_is_where_the_move_says() -> None:
    for kind in ("left", "fall", "orbit", "grow"):
        chosen = move(kind, Random(1))
        for size in ((64, 64), (64, 96)):
            clip_3THW = drawn(chosen, size=size)
            assert clip_3THW.dtype == torch.uint8 and clip_3THW.shape == (3, 5, *size)
            for number in range(5):
                pose = chosen.at(number / 4)
                seen = clip_3THW[1, number] < 128
                x, y = centre(seen)
                assert abs(x - pose.x) < 0.02 and abs(y - pose.y) < 0.02
                assert abs(float(seen.sum()) ** 0.5 / min(size) - pose.side) < 0.04


def test_a_spin_turns_the_way_that_is_said() -> None:
    """After a quarter turn clockwise what was above is on the right."""
    clip_3THW = drawn(Move("spin", 0.5, 0.5, 0.6, way=1))
    blue = (clip_3THW[2] > 128) & (clip_3THW[0] < 128)
    assert centre(blue[0])[1] < 0.45 and centre(blue[1])[0] > 0.55
    assert (drawn(Move("spin", 0.5, 0.5, 0.6, way=-1))[:, 1].flip(-1).int() - clip_3THW[:, 1].int()).abs().max() <= 2


def test_two_things_keep_apart() -> None:
    """Whatever two things do, neither hides the other; and one goes once around the other."""
    cast = Cast(small_concepts())
    for seed in range(60):
        for kind in ("two", "around"):
            one = clip(cast, kind, Random(seed))
            for number in range(T):
                a, b = (actor.move.at(number / (T - 1)) for actor in one.actors)
                apart = max(abs(a.x - b.x), abs(a.y - b.y)) if kind == "two" else math.dist((a.x, a.y), (b.x, b.y))
                assert apart > 0.42 * (a.side + b.side), (one, number)
                assert all(p.side / 2 - 0.09 < value < 1.09 - p.side / 2 for p in (a, b) for value in (p.x, p.y))
    (middle, moon) = (actor.move for actor in clip(cast, "around", Random(3)).actors)
    turns = [math.atan2(p.y - middle.y, p.x - middle.x) for p in (moon.at(n / 16) for n in range(T))]
    steps = [(b - a + math.pi) % (2 * math.pi) - math.pi for a, b in pairwise(turns)]
    assert abs(sum(steps)) == pytest.approx(2 * math.pi) and all(step * moon.way > 0 for step in steps)


def test_small_things_are_smooth() -> None:
    """A grid of lines becomes gray where it is drawn much smaller than it is, at every size of a thing that shrinks."""
    lines = torch.zeros(1, 4, 128, 128, dtype=torch.uint8)
    lines[0, 3], lines[0, :3, ::2] = 255, 255
    made = render_clip(lines, Clip("one", (Actor(0, 0, Move("shrink", 0.5, 0.5, 0.9, 4.0)),), "blue", ("",)), 96, 96, 9)
    for number in range(2, 9):
        inside = made[:, number, 46:50, 46:50].float()
        assert (inside - 127.5).abs().max() < 30, number


def test_clips_of_a_pack_have_things_in_them() -> None:
    sprites, concepts = small_sprites(), small_concepts()
    for one in clips(concepts, 6, 0):
        made = render_clip(sprites, one, 48, 48, 5)
        moved = (made[:, 1:].int() - made[:, :-1].int()).abs().float().mean()
        assert (float(moved) == 0) == (one.kind == "still")
