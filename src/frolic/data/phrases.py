"""What is said of a scene: short lower-case English, as a user types it. Everything here is true of what is drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from frolic.data.compose import PALETTE
from frolic.data.starter.captions import with_article
from frolic.data.starter.concepts import Concept

LONGEST = 16
"""Words; the text encoder takes 24 tokens."""

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
BIG = ("big", "large", "huge")
SMALL = ("small", "tiny", "little")

_ARTICLE = re.compile(r"^(?:an?|the) ")
_SCENERY = {
    "sky": ("in the sky", "in the sky", "in a blue sky"),
    "night": ("in the night sky", "in the night sky", "at night"),
    "grass": ("on grass", "on the grass", "on green grass"),
    "sea": ("on the sea", "on the sea", "at sea"),
    "room": ("in a room", "in a room", "in the room"),
}


def bare(phrase: str) -> str:
    """``phrase`` without its article."""
    return _ARTICLE.sub("", phrase)


def uncoloured(noun: str) -> str:
    """``noun`` without the colour it begins with ("red apples" -> "apples")."""
    first, _, rest = noun.partition(" ")
    return rest if first in PALETTE and rest else noun


def own_colour(concept: Concept) -> str:
    """The colour that it has as it is: the one it is called by, or the measured one; "" when it has not one."""
    first = concept.noun.partition(" ")[0]
    return first if concept.colour and first in PALETTE and uncoloured(concept.noun) != concept.noun else concept.colour


def noun(concept: Concept, colour: str = "", number: int = 1) -> str:
    """What ``concept`` is called in a scene, without article, ``colour`` said of it."""
    name = concept.noun if number == 1 else concept.plural
    return f"{colour} {uncoloured(name)}" if colour else name


def single(concept: Concept, rng: Random) -> list[str]:
    """Up to three of its phrasings: the best one, another, and now and then one that says that it is a picture."""
    best = concept.captions[0]
    said = [best]
    others = [*concept.captions[1:], *concept.synonyms]
    if others:
        said.append(rng.choice(others))
    roll = rng.random()
    if roll < 0.3:
        said.append(bare(best))
    elif roll < 0.6:
        form = rng.choice(("an emoji of {}", "a picture of {}", "a 3d render of {}", "a 3d icon of {}", "{}, 3d"))
        said.append(form.format(best))
    elif len(others) > 1:
        said.append(rng.choice(others))
    return said


def style(concept: Concept, word: str, rng: Random) -> list[str]:
    """Phrasings with a style's word in them."""
    best = rng.choice((concept.captions[0], concept.captions[0], *concept.captions, *concept.synonyms))
    if word == "flat":
        forms = ["flat icon of {a}", "a flat icon of {a}", "{a}, flat icon", "flat {n}", "{a}, flat style"]
    else:
        forms = [f"{word} style {{n}}", f"{{a}}, {word} style", f"{{a}} in {word} style", f"{word} emoji of {{a}}"]
    if best.startswith(("a ", "an ")):
        forms.append(with_article("flat {n}" if word == "flat" else f"{word} style {{n}}"))
    return [form.format(a=best, n=bare(best)) for form in rng.sample(forms, 3)]


def colour(concept: Concept, word: str, rng: Random) -> list[str]:
    """Phrasings with a colour said of the thing."""
    name = uncoloured(concept.noun)
    said = [with_article(f"{word} {name}"), f"{with_article(name)} that is {word}", f"{word} {name}"]
    return [said[0], rng.choice(said[1:])]


def on_ground(phrases: Sequence[str], ground: str, rng: Random, mention_white: bool = False) -> list[str]:
    """Each of ``phrases`` with the ground said; white is the one that is not, unless ``mention_white``."""
    if ground == "white" and not mention_white:
        return list(phrases)
    if ground in _SCENERY:
        return [f"{phrase} {rng.choice(_SCENERY[ground])}" for phrase in phrases]
    on = with_article(f"{ground} background")
    forms = (f"{{}} on {on}", f"{{}} on {on}", f"{{}}, {ground} background", f"{{}} against {on}")
    return [rng.choice(forms).format(phrase) for phrase in phrases]


def together(names: Sequence[str], beside: bool, rng: Random) -> list[str]:
    """Two things; ``beside``: they are next to each other."""
    a, b = rng.sample(names, 2)
    said = [f"{a} and {b}", f"{b} and {a}", f"{a} with {b}", f"{a} and {b}"]
    if beside:
        said += [f"{a} next to {b}", f"{b} beside {a}", f"{b} next to {a}"]
    return list(dict.fromkeys(rng.sample(said, 3)))


def all_three(names: Sequence[str], rng: Random) -> list[str]:
    a, b, c = rng.sample(names, 3)
    return [rng.choice((f"{a}, {b} and {c}", f"{a}, {b}, and {c}")), f"{b}, {c} and {a}"]


def count(concept: Concept, number: int, colour: str, rng: Random) -> list[str]:
    """That many of one thing."""
    name = noun(concept, colour, number)
    return [f"{NUMBERS[number]} {name}", f"{number} {name}"] + ([with_article(name)] if number == 1 else [])


def left_right(names: Sequence[str], rng: Random) -> list[str]:
    left, right = names
    said = (
        f"{left} to the left of {right}",
        f"{right} to the right of {left}",
        f"{left} on the left and {right} on the right",
        f"{right} on the right and {left} on the left",
        f"{left} left of {right}",
        f"{right} right of {left}",
    )
    return rng.sample(said, 3)


def above_below(names: Sequence[str], rng: Random) -> list[str]:
    upper, lower = names
    said = (
        f"{upper} above {lower}",
        f"{upper} above {lower}",
        f"{lower} below {upper}",
        f"{lower} below {upper}",
        f"{lower} under {upper}",
        f"{upper} at the top and {lower} at the bottom",
    )
    return list(dict.fromkeys(rng.sample(said, 3)))


def front_behind(names: Sequence[str], rng: Random) -> list[str]:
    behind, front = names
    return rng.sample((f"{front} in front of {behind}", f"{behind} behind {front}"), 2)


def sizes(nouns: Sequence[str], rng: Random) -> list[str]:
    """``nouns`` without article: of the big thing, then of the small one."""
    big, small = nouns
    said = []
    for swap in rng.sample((False, True), 2):
        large, little = with_article(f"{rng.choice(BIG)} {big}"), with_article(f"{rng.choice(SMALL)} {small}")
        said.append(f"{little} and {large}" if swap else f"{large} and {little}")
    return said


def size(noun: str, small: bool, rng: Random) -> list[str]:
    return [with_article(f"{word} {noun}") for word in rng.sample(SMALL if small else BIG, 2)]
