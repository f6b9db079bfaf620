"""Clips of cut-outs that move, with captions that are exactly true of them; and the clips themselves.

N sprites, T frames, H/W sides of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from frolic.data import phrases
from frolic.data.captioned import number_of
from frolic.data.compose import PALETTE, PLAIN
from frolic.data.grounds import SCENERY, paint
from frolic.data.heldout import reserved
from frolic.data.moves import AROUND, MOVES, Move, Pose, Room, around, move, said
from frolic.data.scenes import EVERYDAY, Cast
from frolic.data.starter.captions import with_article
from frolic.data.starter.concepts import Concept
from frolic.errors import RequestError

MIX: Mapping[str, float] = {"one": 0.55, "two": 0.07, "around": 0.03, "still": 0.08, "loop": 0.27}
"""How often each kind of clip is trained with; ``loop`` only where there are loops."""
EVERYDAY_MOVES = 12.0
"""How much more often everyday things are seen moving than others: a small model had better know some things well."""
TRAVELS = 0.4
"""How often a loop that heads somewhere goes there."""
ROWS = (Room(y=0.27, high=0.5), Room(y=0.73, high=0.5))
COLUMNS = (Room(x=0.26, wide=0.48), Room(x=0.74, wide=0.48))
_OFTEN = [2.0 if each in ("bounce", "spin", "orbit") else 1.0 for each in MOVES[:-1]]
"""What comes back to where it began takes longer to learn than what goes one way."""
_TRIES = 1000


@dataclass(frozen=True)
class Actor:
    """``row`` in the sprites, of ``concept`` (an index), and what it does. ``loop`` is a row of the animated cut-outs
    instead, which begins with its frame ``phase``. ``mirror``: left and right of the cut-out change places."""

    row: int
    concept: int
    move: Move
    loop: int | None = None
    phase: int = 0
    mirror: bool = False


@dataclass(frozen=True)
class Clip:
    """``actors`` from back to front on ``ground`` (a word of ``PALETTE`` or ``SCENERY``), with one to three
    ``captions``. ``seed`` decides what is left open of the ground."""

    kind: str
    actors: tuple[Actor, ...]
    ground: str
    captions: tuple[str, ...]
    seed: int = 0


@dataclass(frozen=True)
class Loops:
    """The animated cut-outs: the row of each, by its concept's code, and phrases that say what it does, by code too; an
    empty one where the name says it already ("a man running"). ``headings`` are ``left`` or ``right``: the way that
    what walks, drives, swims or flies is headed as it is drawn."""

    rows: Mapping[str, int]
    verbs: Mapping[str, Sequence[str]]
    headings: Mapping[str, str] = field(default_factory=dict)


def clips(
    concepts: Sequence[Concept] | Cast,
    count: int,
    seed: int,
    mix: Mapping[str, float] = MIX,
    start: int = 0,
    loops: Loops | None = None,
) -> list[Clip]:
    """Clips ``start`` to ``start + count`` to train with: kinds by ``mix``, no reserved combination. Clip k depends on
    ``seed`` and k only (and on the concepts and ``loops``).

    Raises:
        RequestError: next to everything that the concepts allow is reserved.
    """
    cast = concepts if isinstance(concepts, Cast) else Cast(concepts, EVERYDAY_MOVES)
    kinds = [kind for kind in mix if kind != "loop" or loops is not None]
    weights = [mix[kind] for kind in kinds]
    looping = [] if loops is None else [n for n, concept in enumerate(cast.concepts) if concept.code in loops.rows]
    made = []
    for number in range(start, start + count):
        rng = Random(f"clip {seed} {number}")
        kind = rng.choices(kinds, weights)[0]
        tries = (
            clip(cast, kind, rng) if kind != "loop" or loops is None else _looped(cast, looping, loops, rng)
            for _ in range(_TRIES)
        )
        found = next((one for one in tries if not is_reserved(one, cast.concepts)), None)
        if found is None:
            raise RequestError(f"these concepts allow no clip of kind {kind!r}: give more of them.")
        made.append(found)
    return made


def is_reserved(clip: Clip, concepts: Sequence[Concept]) -> bool:
    """Whether a clip shows what is only ever evaluated."""
    codes = [concepts[actor.concept].code for actor in clip.actors]
    moves = [reserved("motion", code, actor.move.kind) for code, actor in zip(codes, clip.actors, strict=True)]
    pair = len(codes) == 2 and reserved("pair", *codes)
    ground = clip.ground != PLAIN and any(reserved("ground", code, clip.ground) for code in codes)
    return any(moves) or pair or ground


def meaning(clip: Clip, concepts: Sequence[Concept]) -> int:
    """A number that clips share of which each one's captions are true of the other: the same things doing the same on
    the same ground. Which way around something turns counts: the other way is always said."""
    does = [
        f"{concepts[a.concept].code} {a.move.kind} {a.move.way if a.move.kind in ('spin', 'orbit') else ''} "
        f"{'alive' if a.loop is not None else ''}"
        for a in clip.actors
    ]
    return number_of([clip.ground, *sorted(does)])


def clip(cast: Cast, kind: str, rng: Random) -> Clip:
    """One clip of a kind of ``MIX`` but ``loop``. It may show reserved combinations."""
    for _ in range(_TRIES):
        if kind == "two":
            indices = cast.different(2, rng)
            moves = _two(rng)
        elif kind == "around":
            indices, moves = cast.different(2, rng), list(around(rng))
        else:
            indices = [cast.pick("placeable", rng)]
            moves = [move("still" if kind == "still" else rng.choices(MOVES[:-1], _OFTEN)[0], rng)]
        ground = _ground(cast, indices, rng)
        captions = _captions(cast, indices, moves, ground, kind, rng)
        if captions:
            actors = tuple(
                Actor(cast.concepts[index].row, index, each) for index, each in zip(indices, moves, strict=True)
            )
            return Clip(kind, actors, ground, tuple(captions[:3]), rng.getrandbits(32))
    raise RequestError(f"every caption of kind {kind!r} is longer than {phrases.LONGEST} words.")


def _two(rng: Random) -> list[Move]:
    """Two things one above the other or side by side, each in its half, one of which may stay where it is."""
    rooms, but = (ROWS, ("up", "down", "fall")) if rng.random() < 0.5 else (COLUMNS, ("left", "right"))
    # What goes in a circle in half a picture is too small to be seen.
    kinds = rng.sample([each for each in MOVES if each not in (*but, "orbit")], 2)
    return [move(each, rng, room) for each, room in zip(kinds, rng.sample(rooms, 2), strict=True)]


def _looped(cast: Cast, looping: Sequence[int], loops: Loops, rng: Random) -> Clip:
    """A thing that moves by itself, where it is or on its way to one side, mirrored if it has to be."""
    often = [EVERYDAY if cast.concepts[index].everyday else 1.0 for index in looping]
    index = rng.choices(looping, often)[0]
    concept = cast.concepts[index]
    ground = _ground(cast, [index], rng)
    name, verbs = concept.captions[0], loops.verbs.get(concept.code, ("moving about",))
    heading = loops.headings.get(concept.code)
    does, mirror = move("still", rng), False
    if heading and rng.random() < TRAVELS:
        does = move(rng.choice(("left", "right")), rng)
        mirror = does.kind != heading
        # The first phrase is how it gets on; another may be of what else it does ("moving its legs").
        texts = [f"{name} {verbs[0]} to the {does.kind}", f"{name} {verbs[0]} {does.kind}"]
        texts.append(f"{name} moving to the {does.kind}")
    else:
        texts = [f"{name} {rng.choice(verbs)}", name, with_article(f"animated {phrases.bare(name)}")]
    texts = [" ".join(text.split()) for text in texts]
    captions = [text.lower() for text in phrases.on_ground(texts, ground, rng) if len(text.split()) <= phrases.LONGEST]
    actor = Actor(concept.row, index, does, loops.rows[concept.code], rng.randrange(1 << 16), mirror)
    return Clip("loop", (actor,), ground, tuple(dict.fromkeys(captions or [name.lower()])), rng.getrandbits(32))


def render_clip(
    sprites_N4HW: Tensor, clip: Clip, height: int, width: int, frames: int, loops_NT4HW: Tensor | None = None
) -> Tensor:
    """``[3, T, H, W]`` of bytes. ``loops`` are the animated cut-outs, for clips that show them."""
    under = paint([clip.ground], [clip.seed], height, width)[0]
    picture = under[:, None].expand(-1, frames, -1, -1).clone()
    for actor in clip.actors:
        poses = [actor.move.at(number / max(1, frames - 1)) for number in range(frames)]
        cuts = sprites_N4HW[actor.row][None]
        if actor.loop is not None:
            assert loops_NT4HW is not None
            order = (actor.phase + torch.arange(frames)) % loops_NT4HW.shape[1]
            cuts = loops_NT4HW[actor.loop][order]
        cuts = cuts.flip(-1) if actor.mirror else cuts
        _stamp(picture, cuts, poses)
    return (picture * 255).round().clamp(0, 255).to(torch.uint8)


def _stamp(picture_3THW: Tensor, cuts_T4hw: Tensor, poses: Sequence[Pose]) -> None:
    """Draw a cut-out, or one for each frame, over every frame, at its place, size and angle there, in place."""
    _, _, height, width = picture_3THW.shape
    short = min(height, width)
    rgba = cuts_T4hw.float() / 255
    layer = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)
    sizes = [_sample_size(pose.side * short, layer.shape[-1]) for pose in poses]
    for size in sorted(set(sizes), reverse=True):
        some = torch.tensor([number for number, each in enumerate(sizes) if each == size])
        part = layer if len(layer) == 1 else layer[some]
        if size < layer.shape[-1]:
            part = F.interpolate(part, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        grid = _grid([poses[number] for number in some.tolist()], height, width)
        drawn = F.grid_sample(
            part.expand(len(some), -1, -1, -1), grid, mode="bilinear", padding_mode="zeros", align_corners=False
        ).transpose(0, 1)
        picture_3THW[:, some] = picture_3THW[:, some] * (1 - drawn[3:]) + drawn[:3]


def _sample_size(side: float, most: int) -> int:
    """To how many pixels a sprite is reduced before it is drawn ``side`` wide. Sampling takes four points of it, so
    that it must not be much larger; and few sizes are enough for all frames of a thing that grows."""
    size = float(most)
    while size > 1.45 * side and size > 2:
        size *= 0.75
    return max(1, round(size))


def _grid(poses: Sequence[Pose], height: int, width: int) -> Tensor:
    """[T, H, W, 2]: from places in the frame (-1 to 1) to ones in the sprite: shifted, turned back, and scaled."""
    x, y, side, angle = torch.tensor([(pose.x, pose.y, pose.side, pose.angle) for pose in poses]).T
    short = min(height, width)
    wide, high = side * short / width, side * short / height
    cos, sin = angle.cos(), angle.sin()
    theta = torch.zeros(len(poses), 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = cos / wide, sin * (height / width) / wide
    theta[:, 1, 0], theta[:, 1, 1] = -sin * (width / height) / high, cos / high
    centre = torch.stack([2 * x - 1, 2 * y - 1], 1)[:, :, None]
    theta[:, :, 2] = -(theta[:, :, :2] @ centre)[:, :, 0]
    return F.affine_grid(theta, [len(poses), 4, height, width], align_corners=False)


def _ground(cast: Cast, indices: Sequence[int], rng: Random) -> str:
    """White more often than not, else a colour that no thing on it is known to have, or scenery."""
    roll = rng.random()
    if roll < 0.5:
        return PLAIN
    if roll < 0.65:
        return rng.choice(list(SCENERY))
    taken = {PLAIN, *(phrases.own_colour(cast.concepts[index]) for index in indices)}
    return rng.choice([word for word in PALETTE if word not in taken])


def _captions(
    cast: Cast, indices: Sequence[int], moves: Sequence[Move], ground: str, kind: str, rng: Random
) -> list[str]:
    named = [with_article(cast.concepts[index].noun) for index in indices]
    made = []
    for number in range(3):
        if kind == "around":
            doing = [f"{named[1]} {rng.choice(AROUND)} {named[0]}"]
        elif kind == "still" and number == 0:
            doing = named  # who asks for nothing to happen gets that
        else:
            # Of two, the one that stays may be named only.
            doing = [
                name if each.kind == "still" and kind == "two" and rng.random() < 0.5 else f"{name} {said(each, rng)}"
                for name, each in zip(named, moves, strict=True)
            ]
        made += phrases.on_ground([" and ".join(rng.sample(doing, len(doing)))], ground, rng)
    return [text.lower() for text in dict.fromkeys(made) if len(text.split()) <= phrases.LONGEST]
