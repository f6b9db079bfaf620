"""The scores on sights made by hand: no network has a say in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from frolic.eval.classifier import ClassifierNet
from frolic.eval.detector import DetectorNet
from frolic.eval.judge import Judge, Named, Sight, Thing
from frolic.eval.layouts import Box
from frolic.eval.scoring import score, shares
from frolic.eval.suites import Case

CODES = [f"c{index}" for index in range(8)]
JUDGE = Judge(
    ClassifierNet(8),
    DetectorNet(),
    {"concepts": [{"code": code, "name": code, "caption": f"a {code}"} for code in CODES]},
)
LEFT, RIGHT = (0.05, 0.3, 0.45, 0.7), (0.55, 0.3, 0.95, 0.7)


def named(code: str, second: str = "c7", style: str = "3d") -> Named:
    logits = torch.zeros(8)
    logits[CODES.index(code)], logits[CODES.index(second)] = 9, 5
    return Named(logits.log_softmax(0), style)


def thing(code: str, box: Box = LEFT, score: float = 0.9, colour: str = "red", second: str = "c7") -> Thing:
    return Thing(box, score, named(code, second), colour)


def sight(
    things: Sequence[Thing], whole: str = "c0", ground: str = "white", landscape: str = "", style: str = "3d"
) -> Sight:
    return Sight(named(whole, style=style), tuple(things), ground, landscape)


def right(case: Case, seen: Sight) -> bool:
    return score(case, seen, JUDGE)["correct"]


def test_one_thing_must_be_the_likeliest() -> None:
    case = Case("single", "a c0", ("c0",))
    assert right(case, sight([thing("c0")])) and right(case, sight([]))
    assert not right(case, sight([thing("c1")], whole="c1"))
    assert score(Case("single", "a c7", ("c7",)), sight([]), JUDGE) == {"correct": False, "top5": True}


def test_any_accepted_concept_is_right_for_a_synonym() -> None:
    case = Case("synonym", "a puppy", ("c0",), accepted=("c0", "c3"))
    assert right(case, sight([], whole="c3")) and not right(case, sight([], whole="c4"))


def test_counting_is_exact() -> None:
    case = Case("count", "two c1s", ("c1",), count=2)
    two = [thing("c1", LEFT), thing("c1", RIGHT)]
    assert right(case, sight(two))
    assert not right(case, sight(two[:1]))
    assert not right(case, sight([*two, thing("c1", (0.4, 0.7, 0.6, 0.9))]))
    assert not right(case, sight([*two, thing("c2", (0.4, 0.7, 0.6, 0.9))]))
    assert not right(case, sight([two[0], thing("c2", RIGHT)]))
    # One of them taken for its neighbour in kind is forgiven, as long as the things together say what they are.
    assert right(case, sight([two[0], two[0], thing("c1")][:2]))
    assert score(case, sight([]), JUDGE) == {"correct": False, "number": False, "object": False, "n=2": False}


def test_two_things_must_both_be_there() -> None:
    case = Case("two", "a c1 and a c2", ("c1", "c2"))
    assert right(case, sight([thing("c1"), thing("c2", RIGHT)]))
    assert right(case, sight([thing("c1"), thing("c2", RIGHT), thing("c3", RIGHT)]))
    assert score(case, sight([thing("c1"), thing("c1", RIGHT)]), JUDGE) == {"correct": False, "one": True}


def test_position_needs_both_and_the_place() -> None:
    case = Case("position", "a c1 to the left of a c2", ("c1", "c2"), relation="left")
    assert right(case, sight([thing("c1", LEFT), thing("c2", RIGHT)]))
    swapped = score(case, sight([thing("c1", RIGHT), thing("c2", LEFT)]), JUDGE)
    assert swapped == {"correct": False, "both": True, "left": False}
    assert not right(case, sight([thing("c1", LEFT)]))


def test_colours_styles_and_grounds() -> None:
    blue = Case("colour", "a blue c0", ("c0",), colour="blue")
    assert right(blue, sight([thing("c0", colour="blue")])) and not right(blue, sight([thing("c0", colour="red")]))
    assert not right(blue, sight([thing("c1", colour="blue")], whole="c1"))
    flat = Case("style", "flat icon of a c0", ("c0",), style="flat")
    assert right(flat, sight([], style="flat")) and not right(flat, sight([], style="noto"))
    grass = Case("background", "a c0 on grass", ("c0",), ground="grass")
    assert right(grass, sight([thing("c0")], landscape="grass"))
    assert not right(grass, sight([thing("c0")], ground="green"))
    assert not right(grass, sight([], landscape="grass")), "a ground with nothing on it"
    pink = Case("background", "a c0 on a pink background", ("c0",), ground="pink")
    assert score(pink, sight([thing("c1")], ground="pink", whole="c1"), JUDGE) == {
        "correct": True,
        "colour": True,
        "object": False,
        "both": False,
    }


def test_shares_count_what_each_case_has() -> None:
    assert shares([{"correct": True, "n=1": True}, {"correct": False, "n=2": False}]) == {
        "correct": 0.5,
        "n=1": 1.0,
        "n=2": 0.0,
    }
