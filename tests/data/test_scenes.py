"""Scenes are checked by what their captions say: it must be so in the picture."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch

from frolic.data.compose import PALETTE
from frolic.data.grounds import SCENERY
from frolic.data.heldout import reserved
from frolic.data.phrases import LONGEST
from frolic.data.scenes import KINDS, TRAINING_MIX, Cast, Scene, Thing, combinations, render, scene, scenes
from frolic.data.starter.concepts import Concept
from frolic.data.starter.synonyms import uses_unseen
from frolic.errors import RequestError

WORDS = """dog fox cat house chair boat rocket bird lemon guitar drum bell kite hat tree cactus banana key robot ghost
lion pizza cookie violin ladder candle camera clock ticket octopus egg owl snail tent sun carrot"""


def concept(number: int, noun: str, **given: object) -> Concept:
    article = "an" if noun.startswith(tuple("aeio")) else "a"
    base = {
        "captions": (f"{article} {noun}", noun),
        "noun": noun,
        "plural": f"{noun}s",
        "row": number,
        "everyday": number < 6,
        "colour": "red" if number % 3 == 0 else "",
        "styles": {"flat": number, "noto": number} if number % 2 else {},
    }
    return Concept(code=f"1f{number:03x}", name=noun, group="objects", **{**base, **given})  # type: ignore[arg-type]


CONCEPTS = [concept(n, noun) for n, noun in enumerate(WORDS.split())] + [
    concept(90, "red apple", row=0, colour="red"),
    concept(91, "pine tree", row=1),
    concept(92, "", row=2, captions=("a grinning face",)),
]
CAST = Cast(CONCEPTS)
ASPECTS = (1.0, 320 / 192, 192 / 320, 288 / 224)


def many(kind: str, count: int = 150, aspect: float = 1.0) -> list[Scene]:
    return scenes(CAST, count, 3, {kind: 1.0}, aspect)


def noun_of(thing: Thing) -> str:
    return CONCEPTS[thing.concept].noun


def called(phrase: str, each: Scene) -> Thing:
    """The thing of the scene that ``phrase`` (article, perhaps a colour, noun) is about."""
    found = [t for t in each.things if phrase.endswith(noun_of(t).removeprefix("red "))]
    assert len(found) == 1, (phrase, each)
    return found[0]


def sides(each: Scene, aspect: float) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom over the short side."""
    wide, high = max(1.0, aspect), max(1.0, 1 / aspect)
    return [
        (t.x * wide - t.scale / 2, t.y * high - t.scale / 2, t.x * wide + t.scale / 2, t.y * high + t.scale / 2)
        for t in each.things
    ]


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def test_a_scene_is_a_function_of_seed_and_number():
    ten = scenes(CAST, 10, 5)
    assert scenes(CONCEPTS, 4, 5, start=6) == ten[6:]
    assert scenes(CAST, 10, 6) != ten
    assert len(set(ten)) == 10


def test_the_mix_and_everyday_concepts_are_as_frequent_as_they_should_be():
    made = scenes(CAST, 4000, 1)
    kinds = Counter(each.kind for each in made)
    assert sum(TRAINING_MIX.values()) == pytest.approx(1) and set(TRAINING_MIX) == set(KINDS) == set(kinds)
    assert all(abs(kinds[kind] / 4000 - share) < 0.03 for kind, share in TRAINING_MIX.items())
    drawn = Counter(each.things[0].concept for each in made if each.kind == "single")
    everyday = sum(n for i, n in drawn.items() if CONCEPTS[i].everyday) / 6
    others = sum(n for i, n in drawn.items() if not CONCEPTS[i].everyday) / (len(CONCEPTS) - 6)
    assert 2.3 < everyday / others < 3.9


def test_no_training_scene_shows_what_is_reserved():
    for kind in KINDS:
        for each in many(kind, 600):
            codes = [CONCEPTS[t.concept].code for t in each.things]
            pairs = [("pair", a, b) for a in codes for b in codes if a < b]
            counts = [("count", code, str(n)) for code, n in Counter(codes).items() if n > 1]
            colours = [
                ("colour", CONCEPTS[t.concept].code, word)
                for t in each.things
                for word in PALETTE
                if word == t.tint or any(re.search(rf"\b{word} {noun_of(t)}", c) for c in each.captions if noun_of(t))
            ]
            grounds = [("ground", code, each.ground) for code in codes if each.ground != "white"]
            for combination in (*pairs, *counts, *colours, *grounds):
                assert not reserved(*combination), (combination, each)


def test_without_the_rule_there_would_be_reserved_ones():
    free = [scene(CAST, "two", Random(n)) for n in range(300)]
    share = sum(any(reserved(*c) for c in combinations(each, CONCEPTS)) for each in free) / 300
    assert share > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_short_and_plain(kind):
    for each in many(kind):
        assert 1 <= len(each.captions) <= 3 and len(set(each.captions)) == len(each.captions)
        for caption in each.captions:
            assert caption == caption.lower().strip() and len(caption.split()) <= LONGEST
            assert not re.search(r"\ba [aeio]|\ban [^aeiou]|  | ,|\{", caption), caption
            assert not uses_unseen(caption)
            assert "tree" not in caption or "pine tree" not in caption or caption.count("tree") == 1 or kind == "count"


def test_every_ground_but_plain_white_is_said_and_is_the_one_drawn():
    seen = set()
    words = {"sky": "sky", "night": "night", "grass": "grass", "sea": "sea", "room": "room"}
    for kind in ("ground", "two", "count", "position", "size", "colour"):
        for each in many(kind):
            seen.add(each.ground)
            for caption in each.captions:
                said = re.search(r"(\w+) background", caption)
                if each.ground in SCENERY:
                    assert words[each.ground] in caption and not said
                elif each.ground != "white" or kind == "ground":
                    assert said and said[1] == each.ground
                else:
                    assert not said
    assert seen == {*PALETTE, *SCENERY}
    plain = sum(each.ground == "white" for each in many("count", 600)) / 600
    assert 0.48 < plain < 0.64


def test_a_colour_is_the_tint_or_the_things_own():
    own = 0
    for each in many("colour", 300):
        (thing,) = each.things
        assert thing.said and all(re.search(rf"\b{thing.said}\b", c) for c in each.captions)
        assert thing.tint == ("" if thing.said == "red" else thing.said)
        assert CONCEPTS[thing.concept].colour
        assert each.ground != thing.said or thing.said == "white"
        assert "red apple" not in " ".join(each.captions) or thing.said == "red"
        own += not thing.tint
    assert own > 5


@pytest.mark.parametrize("aspect", ASPECTS)
def test_counts_are_the_number_of_things_drawn_apart(aspect):
    words = {"one": 1, "two": 2, "three": 3, "four": 4, "a": 1, "an": 1}
    seen = set()
    for each in many("count", aspect=aspect):
        assert len({(t.row, t.tint) for t in each.things}) == 1
        for caption in each.captions:
            number = caption.split()[0]
            assert len(each.things) == words.get(number) or number == str(len(each.things)), caption
        seen.add(len(each.things))
    assert seen == {1, 2, 3, 4}


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize("kind", KINDS)
def test_things_are_inside_and_apart(kind, aspect):
    wide, high = max(1.0, aspect), max(1.0, 1 / aspect)
    for each in many(kind, 100, aspect):
        boxes = sides(each, aspect)
        for left, top, right, bottom in boxes:
            assert min(left, top, wide - right, high - bottom) > -0.04, each
        behind = any(" behind " in c or " in front of " in c for c in each.captions)
        if not behind:
            for i, a in enumerate(boxes):
                for b in boxes[:i]:
                    assert overlap(a, b) < 0.01, each


@pytest.mark.parametrize("aspect", ASPECTS)
def test_positions_are_as_said(aspect):
    seen = set()
    wide, high = max(1.0, aspect), max(1.0, 1 / aspect)
    for each in many("position", 300, aspect):
        boxes = dict(zip(each.things, sides(each, aspect), strict=True))
        for full in each.captions:
            caption = re.split(r",? (?:on|against) an? \w+ background|, \w+ background", full)[0]
            caption = re.sub(
                r" (?:(?:in|on|at) (?:the |a |green |blue )*(?:sky|night sky|grass|sea|room|night))$", "", caption
            )
            if found := re.fullmatch(r"(.+?) (?:to the )?left of (.+)", caption):
                left, right, kind = found[1], found[2], "left"
            elif found := re.fullmatch(r"(.+?) (?:to the )?right of (.+)", caption):
                left, right, kind = found[2], found[1], "right"
            elif found := re.fullmatch(r"(.+) on the left and (.+) on the right", caption):
                left, right, kind = found[1], found[2], "both"
            elif found := re.fullmatch(r"(.+) on the right and (.+) on the left", caption):
                left, right, kind = found[2], found[1], "both"
            elif found := re.fullmatch(r"(.+) (?:above) (.+)|(.+) at the top and (.+) at the bottom", caption):
                upper, lower = [part for part in found.groups() if part]
                assert boxes[called(lower, each)][1] > boxes[called(upper, each)][3] - 0.01
                assert abs(called(lower, each).x - called(upper, each).x) * wide < 0.12
                seen.add("above")
                continue
            elif found := re.fullmatch(r"(.+) (?:below|under) (.+)", caption):
                assert boxes[called(found[1], each)][1] > boxes[called(found[2], each)][3] - 0.01
                seen.add("below")
                continue
            else:
                found = re.fullmatch(r"(.+) (in front of|behind) (.+)", caption)
                assert found, full
                back, front = (found[1], found[3]) if found[2] == "behind" else (found[3], found[1])
                behind, before = called(back, each), called(front, each)
                assert each.things == (behind, before), "drawn over it"
                assert before.y * high > behind.y * high + 0.15, "lower"
                shared = overlap(boxes[behind], boxes[before])
                assert 0.03 < shared / behind.scale**2 < 0.5, "hides some of it, and not most"
                (left, top, *_), (*_, right, bottom) = boxes[before], boxes[behind]
                assert min(right - left, bottom - top) > 0.2, "more than the margins of sprites"
                assert before.x > behind.x, "on the side that is left open"
                seen.add(found[2])
                continue
            seen.add(kind)
            one, other = called(left, each), called(right, each)
            assert boxes[other][0] > boxes[one][2] - 0.01
            assert abs(one.y - other.y) * high < 0.1
    assert seen == {"left", "right", "both", "above", "below", "in front of", "behind"}


def test_next_to_means_in_a_row():
    seen = 0
    for each in many("two", 300):
        if any(re.search("next to|beside", c) for c in each.captions):
            seen += 1
            first, second = each.things
            assert abs(first.y - second.y) < 0.1 and abs(first.x - second.x) > 0.4
    assert seen > 50


def test_sizes_are_as_said():
    for each in many("size", 200):
        for caption in each.captions:
            words = re.findall(r"\b(big|large|huge|small|tiny|little) ((?:red |pine )?\w+)", caption)
            assert len(words) == len(each.things)
            for word, noun in words:
                small = word in ("small", "tiny", "little")
                scale = called(noun, each).scale
                if len(each.things) == 2:
                    other = next(t.scale for t in each.things if t != called(noun, each))
                    assert scale * 1.7 < other if small else scale > other * 1.7
                else:
                    assert scale < 0.4 if small else scale > 0.95


def test_several_things_stand_on_the_grid_of_latents_in_a_size_of_their_layout():
    for kind in ("two", "three", "count", "position"):
        for each in many(kind):
            things = each.things
            if len(things) < 2:
                continue
            # What is in front of another is in the middle of a latent, the others are between two.
            steps = 16 if re.search(" in front of | behind ", each.captions[0]) else 8
            assert all((value * steps).is_integer() for t in things for value in (t.x, t.y)), each
            assert len({t.scale for t in things}) <= (2 if kind == "position" else 1)


def test_words_that_come_near_are_said_of_single_things_and_change_no_picture():
    near = ("a hound", "a whelp", "a cur", "a mongrel")
    told = [replace(each, near=near if each.noun == "dog" else ()) for each in CONCEPTS]
    met: Counter[str] = Counter()
    for with_near, without in zip(scenes(Cast(told), 3000, 4), scenes(CAST, 3000, 4), strict=True):
        assert replace(with_near, captions=without.captions) == without
        more = with_near.captions[len(without.captions) :]
        assert with_near.captions == without.captions + more
        alone = with_near.kind == "single" and noun_of(with_near.things[0]) == "dog"
        assert len(more) == (3 if alone else 0) and len(set(more)) == len(more) and set(more) <= set(near)
        met.update(more)
    assert set(met) == set(near)


def test_concepts_without_a_noun_are_only_shown_alone():
    face = len(CONCEPTS) - 1
    assert any(t.concept == face for each in many("single", 600) for t in each.things)
    for kind in set(KINDS) - {"single", "style"}:
        assert not any(t.concept == face for each in many(kind, 100) for t in each.things)


def test_of_two_concepts_with_one_noun_the_everyday_one_is_placed():
    twins = [concept(1, "dog", everyday=False), concept(2, "dog", everyday=True), concept(3, "cat")]
    placed = {t.concept for each in scenes(twins, 60, 0, {"size": 1.0}) for t in each.things}
    assert placed <= {1, 2}


def test_what_cannot_be_made_is_refused():
    with pytest.raises(RequestError, match="did you mean 'count'"):
        scene(CAST, "counts", Random(0))
    with pytest.raises(RequestError, match="styled"):
        scene([concept(2, "dog", styles={})], "style", Random(0))
    with pytest.raises(RequestError, match="told apart"):
        scene([concept(1, "dog"), concept(2, "sheep dog")], "two", Random(0))


def discs(count: int = 100, side: int = 48) -> torch.Tensor:
    """Red discs that fill their sprite."""
    axis = torch.linspace(-1, 1, side)
    inside = (axis[None] ** 2 + axis[:, None] ** 2 < 0.9).byte() * 255
    sprites = torch.zeros(count, 4, side, side, dtype=torch.uint8)
    sprites[:, 0], sprites[:, 1], sprites[:, 2], sprites[:, 3] = 210, 40, 40, inside
    return sprites


def one(**given: object) -> Thing:
    base = {"row": 0, "concept": 0, "tint": "", "scale": 0.4, "x": 0.5, "y": 0.5}
    return Thing(**{**base, **given})  # type: ignore[arg-type]


def test_a_picture_shows_its_things_where_they_are_said_to_be():
    things = (one(x=0.2, y=0.5), one(x=0.8, y=0.5, tint="blue"))
    (picture,) = render(discs(), [Scene("two", things, "white", ("",))], 64, 128)
    assert picture.shape == (3, 64, 128)
    red, blue = picture[:, 32, 26], picture[:, 32, 102]
    assert red[0] > red[2] + 0.8 and blue[2] > blue[0] + 0.8
    assert torch.equal(picture[:, 32, 64], torch.ones(3))


def test_later_things_are_drawn_over_earlier_ones():
    things = (one(tint="blue"), one(x=0.52))
    (picture,) = render(discs(), [Scene("position", things, "white", ("",))], 64, 64)
    assert picture[0, 32, 33] > picture[2, 32, 33]


def test_a_picture_does_not_depend_on_its_batch():
    given = scenes(CAST, 12, 9, {"ground": 1.0, "two": 1.0, "colour": 1.0})
    together = render(discs(), given, 40, 56)
    assert together.min() >= -1 and together.max() <= 1
    for number, each in enumerate(given):
        assert torch.equal(render(discs(), [each], 40, 56)[0], together[number])


def test_rendering_leaves_the_sprites_alone():
    sprites = discs()
    before = sprites.clone()
    render(sprites, scenes(CAST, 20, 2), 32, 32)
    assert torch.equal(before, sprites)
