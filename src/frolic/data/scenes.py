"""Scenes: what is in a picture and where, with captions that are exactly true of it; and the pictures themselves.

N sprites, B scenes, H/W sides of the picture.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from torch import Tensor

from frolic.data import arrange, phrases
from frolic.data.arrange import FLOOR, Frame, Spot
from frolic.data.compose import PALETTE, PLAIN, stamp
from frolic.data.grounds import SCENERY, STANDING, paint
from frolic.data.heldout import reserved
from frolic.data.starter.captions import with_article
from frolic.data.starter.concepts import Concept
from frolic.data.starter.synonyms import uses_unseen
from frolic.data.tints import TINTS, tint
from frolic.errors import RequestError, nearest

TRAINING_MIX: Mapping[str, float] = {
    "single": 0.40,
    "style": 0.10,
    "colour": 0.08,
    "ground": 0.08,
    "two": 0.13,
    "three": 0.02,
    "count": 0.10,
    "position": 0.08,
    "size": 0.01,
}
"""How often each kind of scene is trained with."""

EVERYDAY, EVERYDAY_PLACED = 3.0, 6.0
"""How much more often an everyday concept is drawn than another: alone, and where things are placed in a scene, which
is where people put everyday things."""

PLAIN_SHARE, COLOURED_THINGS = 0.55, 0.12
NEARLY = 3  # words that come near a thing, said of one picture of it
WATER_LINE = 0.84
_TRIES = 1000


@dataclass(frozen=True)
class Thing:
    """``row`` in the sprites, of ``concept`` (an index). ``tint`` is what it was recoloured to, ``said`` the colour
    that captions give it; "" for none. ``scale`` is its sprite's side over the picture's short side, ``x`` and ``y``
    its centre in [0, 1] of the width and the height."""

    row: int
    concept: int
    tint: str
    scale: float
    x: float
    y: float
    said: str = ""


@dataclass(frozen=True)
class Scene:
    """``things`` from back to front on ``ground`` (a word of ``PALETTE`` or ``SCENERY``), with one to six
    ``captions``. ``seed`` decides what is left open of the ground."""

    kind: str
    things: tuple[Thing, ...]
    ground: str
    captions: tuple[str, ...]
    seed: int = 0


class Cast:
    """Who may play in scenes, drawn by weight. Concepts with the same noun are one: the everyday one, or the first.
    None is called by a word that is kept for evaluation. ``placed``: how much more often everyday ones are placed."""

    def __init__(self, concepts: Sequence[Concept], placed: float = EVERYDAY_PLACED) -> None:
        self.concepts = concepts
        by_noun: dict[str, int] = {}
        for index in sorted(range(len(concepts)), key=lambda i: not concepts[i].everyday):
            noun = concepts[index].noun
            if noun and not uses_unseen(noun):
                by_noun.setdefault(noun, index)
        placeable = sorted(by_noun.values())
        self._groups = {
            "all": self._weighted(range(len(concepts))),
            "placeable": self._weighted(placeable, placed),
            "countable": self._weighted(
                [i for i in placeable if concepts[i].plural and not uses_unseen(concepts[i].plural)], placed
            ),
            "styled": self._weighted([i for i, concept in enumerate(concepts) if concept.styles]),
            "colourable": self._weighted([i for i in placeable if concepts[i].colour]),
        }

    def _weighted(self, members: Sequence[int], everyday: float = EVERYDAY) -> tuple[list[int], list[float]]:
        each = (everyday if self.concepts[i].everyday else 1.0 for i in members)
        return list(members), list(itertools.accumulate(each))

    def pick(self, group: str, rng: Random) -> int:
        members, weights = self._groups[group]
        if not members:
            raise RequestError(f"no concept of this pack is {group}, which a scene asks for.")
        return rng.choices(members, cum_weights=weights)[0]

    def different(self, number: int, rng: Random) -> list[int]:
        """Concepts that no caption confuses: none's noun ends with another's ("tree", "pine tree")."""
        chosen: list[int] = []
        for _ in range(_TRIES):
            if len(chosen) == number:
                return chosen
            other = self.pick("placeable", rng)
            nouns = [phrases.uncoloured(self.concepts[i].noun) for i in (*chosen, other)]
            if not any(a.endswith(b) or b.endswith(a) for a, b in itertools.combinations(nouns, 2)):
                chosen.append(other)
        raise RequestError(f"no {number} concepts of this pack can be told apart in one scene.")


class _Director:
    """Makes one scene."""

    def __init__(self, cast: Cast, rng: Random, aspect: float) -> None:
        self.cast, self.rng, self.frame = cast, rng, Frame.of(aspect)

    def make(self, kind: str) -> Scene:
        """Draws again while there is a caption longer than can be read."""
        for _ in range(_TRIES):
            things, ground, captions = _MAKERS[kind](self)
            captions = [c.lower() for c in dict.fromkeys(captions) if len(c.split()) <= phrases.LONGEST]
            if captions:
                seed = self.rng.getrandbits(32)
                return Scene(kind, tuple(things), ground, (*captions[:3], *self.nearly(kind, things)), seed)
        raise RequestError(f"every caption of kind {kind!r} is longer than {phrases.LONGEST} words.")

    def nearly(self, kind: str, things: Sequence[Thing]) -> tuple[str, ...]:
        """Words for what no picture shows and this one comes nearest to, so that such words lead to something. They are
        chosen last: the pictures are the same without them."""
        words = self.concept(things[0].concept).near if kind == "single" else ()
        return tuple(self.rng.sample(words, min(NEARLY, len(words))))

    def concept(self, index: int) -> Concept:
        return self.cast.concepts[index]

    def thing(self, index: int, spot: Spot, colour: str = "", row: int | None = None) -> Thing:
        concept = self.concept(index)
        return Thing(
            row=concept.row if row is None else row,
            concept=index,
            tint="" if colour == phrases.own_colour(concept) else colour,
            scale=spot.side,
            x=spot.x / self.frame.wide,
            y=spot.y / self.frame.high,
            said=colour,
        )

    def some_colour(self, index: int, share: float = COLOURED_THINGS) -> str:
        """Now and then a colour for a thing that can have one."""
        possible = self.concept(index).colour
        return self.rng.choice(list(TINTS)) if possible and self.rng.random() < share else ""

    def plain_ground(self, indices: Sequence[int], colours: Sequence[str], plain: float = PLAIN_SHARE) -> str:
        """White with a share of ``plain``, else a colour that no thing on it is known to have."""
        if self.rng.random() < plain:
            return PLAIN
        pairs = zip(indices, colours, strict=True)
        taken = {PLAIN, *(c or phrases.own_colour(self.concept(i)) for i, c in pairs)}
        return self.rng.choice([word for word in PALETTE if word not in taken])

    def single(self) -> _Made:
        index = self.cast.pick("all", self.rng)
        thing = self.thing(index, arrange.alone(self.rng, self.frame))
        return [thing], PLAIN, phrases.single(self.concept(index), self.rng)

    def style(self) -> _Made:
        index = self.cast.pick("styled", self.rng)
        word, row = self.rng.choice(sorted(self.concept(index).styles.items()))
        thing = self.thing(index, arrange.alone(self.rng, self.frame), row=row)
        return [thing], PLAIN, phrases.style(self.concept(index), word, self.rng)

    def colour(self) -> _Made:
        index = self.cast.pick("colourable", self.rng)
        word = self.rng.choice(list(TINTS))
        thing = self.thing(index, arrange.alone(self.rng, self.frame), word)
        # White on white is hard to see, if true.
        ground = self.plain_ground([index], [word], 0.4 if word == PLAIN else 0.75)
        return [thing], ground, phrases.on_ground(phrases.colour(self.concept(index), word, self.rng), ground, self.rng)

    def ground(self) -> _Made:
        rng, frame = self.rng, self.frame
        index = self.cast.pick("placeable", rng)
        scenic = rng.random() < 0.45
        ground = rng.choice(list(SCENERY)) if scenic else self.plain_ground([index], [""], 0.05)
        if not scenic:
            spot = arrange.alone(rng, frame, 0.78, 0.94)
        elif ground in STANDING or ground == "sea":
            spot = arrange.standing(rng, frame, 0.52, 0.7, FLOOR if ground in STANDING else WATER_LINE)
        else:
            spot = arrange.alone(rng, frame, 0.55, 0.72, 0.08)
        concept = self.concept(index)
        names = [concept.captions[0], rng.choice((*concept.captions, with_article(concept.noun)))]
        return [self.thing(index, spot)], ground, phrases.on_ground(names, ground, rng, mention_white=True)

    def _named(self, indices: Sequence[int]) -> tuple[list[str], list[str]]:
        """Colours and phrases with article."""
        colours = [self.some_colour(i) for i in indices]
        return colours, [with_article(phrases.noun(self.concept(i), c)) for i, c in zip(indices, colours, strict=True)]

    def _cast(self, indices: Sequence[int], spots: Sequence[Spot], colours: Sequence[str]) -> list[Thing]:
        return [self.thing(i, spot, c) for i, spot, c in zip(indices, spots, colours, strict=True)]

    def _row_ground(self, indices: Sequence[int], colours: Sequence[str]) -> tuple[str, float | None]:
        """A ground for things side by side, scenery for some, and where they stand on it."""
        if self.rng.random() >= 0.15:
            return self.plain_ground(indices, colours), None
        ground = self.rng.choice(list(SCENERY))
        return ground, FLOOR if ground in STANDING else WATER_LINE if ground == "sea" else None

    def two(self) -> _Made:
        indices = self.cast.different(2, self.rng)
        colours, names = self._named(indices)
        if self.rng.random() < 0.6:
            ground, floor = self._row_ground(indices, colours)
            spots = arrange.side_by_side(self.rng, self.frame, floor)
            beside = True
        else:
            ground, beside = self.plain_ground(indices, colours), False
            spots = arrange.two(self.rng, self.frame)
        said = phrases.on_ground(phrases.together(names, beside, self.rng), ground, self.rng)
        return self._cast(indices, spots, colours), ground, said

    def three(self) -> _Made:
        indices = self.cast.different(3, self.rng)
        colours, names = self._named(indices)
        ground = self.plain_ground(indices, colours)
        things = self._cast(indices, arrange.three(self.rng, self.frame), colours)
        return things, ground, phrases.on_ground(phrases.all_three(names, self.rng), ground, self.rng)

    def count(self) -> _Made:
        index, number = self.cast.pick("countable", self.rng), self.rng.randint(1, 4)
        colour = self.some_colour(index)
        ground = self.plain_ground([index], [colour])
        things = [self.thing(index, spot, colour) for spot in arrange.several(self.rng, self.frame, number)]
        said = phrases.count(self.concept(index), number, colour, self.rng)
        return things, ground, phrases.on_ground(said, ground, self.rng)

    def position(self) -> _Made:
        rng, frame = self.rng, self.frame
        indices = self.cast.different(2, rng)
        colours, names = self._named(indices)
        ground = self.plain_ground(indices, colours)
        roll = rng.random()
        if roll < 0.42:
            ground, floor = self._row_ground(indices, colours)
            spots, said = arrange.side_by_side(rng, frame, floor), phrases.left_right(names, rng)
        elif roll < 0.78:
            spots, said = arrange.stacked(rng, frame), phrases.above_below(names, rng)
        else:
            spots, said = arrange.in_front(frame), phrases.front_behind(names, rng)
        return self._cast(indices, spots, colours), ground, phrases.on_ground(said, ground, rng)

    def size(self) -> _Made:
        rng, frame = self.rng, self.frame
        if rng.random() < 0.35:
            index, small = self.cast.pick("placeable", rng), rng.random() < 0.6
            ground = self.plain_ground([index], [""])
            spot = arrange.alone(rng, frame, 0.24, 0.34, 0.1) if small else arrange.alone(rng, frame, 1.0, 1.06, 0.01)
            said = phrases.size(self.concept(index).noun, small, rng)
            return [self.thing(index, spot)], ground, phrases.on_ground(said, ground, rng)
        indices = self.cast.different(2, rng)
        colours = ["", ""]
        ground, floor = self._row_ground(indices, colours)
        said = phrases.sizes([self.concept(i).noun for i in indices], rng)
        things = self._cast(indices, arrange.big_and_small(rng, frame, floor), colours)
        return things, ground, phrases.on_ground(said, ground, rng)


_Made = tuple[list[Thing], str, list[str]]
_MAKERS: Mapping[str, Callable[[_Director], _Made]] = {
    "single": _Director.single,
    "style": _Director.style,
    "colour": _Director.colour,
    "ground": _Director.ground,
    "two": _Director.two,
    "three": _Director.three,
    "count": _Director.count,
    "position": _Director.position,
    "size": _Director.size,
}
KINDS = tuple(_MAKERS)


def scene(concepts: Sequence[Concept] | Cast, kind: str, rng: Random, aspect: float = 1.0) -> Scene:
    """A scene of one of ``KINDS`` in a picture whose width is ``aspect`` times its height. It may show reserved
    combinations; a ``Cast`` instead of concepts saves sorting them again.

    Raises:
        RequestError: there is no such kind, or the concepts have nothing for it
    """
    if kind not in _MAKERS:
        raise RequestError(f"there is no kind of scene {kind!r}{nearest(kind, KINDS)}")
    cast = concepts if isinstance(concepts, Cast) else Cast(concepts)
    return _Director(cast, rng, aspect).make(kind)


def scenes(
    concepts: Sequence[Concept] | Cast,
    count: int,
    seed: int,
    mix: Mapping[str, float] = TRAINING_MIX,
    aspect: float = 1.0,
    start: int = 0,
) -> list[Scene]:
    """Scenes ``start`` to ``start + count`` to train with: kinds by ``mix``, no reserved combination. Scene k depends
    on ``seed`` and k only (and on the concepts).

    Raises:
        RequestError: as for :func:`scene`, or next to everything that the concepts allow is reserved
    """
    cast = concepts if isinstance(concepts, Cast) else Cast(concepts)
    kinds, weights = list(mix), list(mix.values())
    made = []
    for number in range(start, start + count):
        rng = Random(f"{seed} {number}")
        kind = rng.choices(kinds, weights)[0]
        tries = (scene(cast, kind, rng, aspect) for _ in range(_TRIES))
        allowed = (s for s in tries if not any(reserved(*each) for each in combinations(s, cast.concepts)))
        found = next(allowed, None)
        if found is None:
            raise RequestError(f"these concepts allow no scene of kind {kind!r}: give more of them.")
        made.append(found)
    return made


def combinations(scene: Scene, concepts: Sequence[Concept]) -> list[tuple[str, str, str]]:
    """What ``scene`` combines, as the arguments of :func:`frolic.data.heldout.reserved`. White is a ground like another
    only where a caption says so."""
    codes = Counter(concepts[thing.concept].code for thing in scene.things)
    found = [("pair", a, b) for a, b in itertools.combinations(sorted(codes), 2)]
    found += [("count", code, str(number)) for code, number in codes.items() if number > 1]
    found += [("colour", concepts[t.concept].code, word) for t in scene.things for word in {t.tint, t.said} - {""}]
    if scene.ground != PLAIN or scene.kind == "ground":
        found += [("ground", code, scene.ground) for code in codes]
    return found


def render(sprites: Tensor, scenes: Sequence[Scene], height: int, width: int) -> Tensor:
    """Pictures ``[B, 3, H, W]`` in [-1, 1], each a function of its scene. ``sprites`` [N, 4, S, S] are 8-bit RGBA with
    straight alpha."""
    pictures = paint([scene.ground for scene in scenes], [scene.seed for scene in scenes], height, width)
    short = min(height, width)
    for picture, each in zip(pictures, scenes, strict=True):
        shadow = {"grass": 0.42, "room": 0.38, "sea": 0.25}.get(each.ground, 0.0)
        drawn: dict[tuple[int, str], Tensor] = {}
        for thing in each.things:
            key = (thing.row, thing.tint)
            if key not in drawn:
                sprite = sprites[thing.row].float() / 255
                drawn[key] = tint(sprite, thing.tint) if thing.tint else sprite
            side = max(1, round(thing.scale * short))
            left, top = round(thing.x * width - side / 2), round(thing.y * height - side / 2)
            stamp(picture, drawn[key], side, left, top, shadow)
    return pictures.mul_(2).sub_(1)
