"""Whether a picture shows what its prompt asks for, from what the judge sees in it.

What is asked for must be what the classifier finds likeliest of all concepts: for one thing in the whole picture or in
the surest box, for several in a box each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from frolic.eval.judge import Judge, Sight, Thing
from frolic.eval.relations import holds
from frolic.eval.suites import LANDSCAPES, Case

Parts = dict[str, bool]


def score(case: Case, sight: Sight, judge: Judge) -> Parts:
    """What of the case is right, by name; ``correct`` is what the suite counts."""
    return _SCORES[case.suite](case, sight, judge)


def seen_alone(sight: Sight, judge: Judge) -> Tensor:
    """The chances of the one thing that a picture is about: the mean of the whole picture's and the surest box's."""
    if not sight.things:
        return sight.whole.chances
    main = max(sight.things, key=lambda thing: thing.score * _area(thing))
    return torch.stack([sight.whole.chances, main.named.chances]).logsumexp(0)


def main_thing(case: Case, sight: Sight, judge: Judge) -> Thing | None:
    """The surest thing that is what was asked for, or else the surest of all."""
    right = [thing for thing in sight.things if _is(thing, case.codes[0], judge)]
    return max(right or sight.things, key=lambda thing: thing.score, default=None)


def _area(thing: Thing) -> float:
    left, top, right, bottom = thing.box
    return (right - left) * (bottom - top)


def _is(thing: Thing, code: str, judge: Judge) -> bool:
    return judge.best(thing.named.chances, 1)[0] == code


def _alone(case: Case, sight: Sight, judge: Judge) -> bool:
    return judge.best(seen_alone(sight, judge), 1)[0] in (case.accepted or case.codes)


def _one(case: Case, sight: Sight, judge: Judge) -> Parts:
    top5 = bool(set(judge.best(seen_alone(sight, judge))) & set(case.accepted or case.codes))
    return {"correct": _alone(case, sight, judge), "top5": top5}


def _style(case: Case, sight: Sight, judge: Judge) -> Parts:
    thing, style = _alone(case, sight, judge), sight.whole.style == case.style
    return {"correct": thing and style, "object": thing, "style": style}


def _colour(case: Case, sight: Sight, judge: Judge) -> Parts:
    thing = _alone(case, sight, judge)
    main = main_thing(case, sight, judge)
    right = main is not None and main.colour == case.colour
    return {"correct": thing and right, "object": thing, "colour": right}


def _background(case: Case, sight: Sight, judge: Judge) -> Parts:
    """The ground counts only behind a thing; which thing it is, is told beside it."""
    thing = _alone(case, sight, judge)
    kind = "landscape" if case.ground in LANDSCAPES else "colour"
    right = bool(sight.things) and (sight.landscape if kind == "landscape" else sight.ground) == case.ground
    return {"correct": right, kind: right, "object": thing, "both": thing and right}


def _two(case: Case, sight: Sight, judge: Judge) -> Parts:
    found = [any(_is(thing, code, judge) for thing in sight.things) for code in case.codes]
    return {"correct": all(found), "one": any(found)}


def _position(case: Case, sight: Sight, judge: Judge) -> Parts:
    """Of several that are the same the surest counts."""
    boxes = []
    for code in case.codes:
        right = [thing for thing in sight.things if _is(thing, code, judge)]
        if right:
            boxes.append(max(right, key=lambda thing: thing.score).box)
    both = len(boxes) == 2
    right_place = both and holds(case.relation, boxes[0], boxes[1])
    return {"correct": right_place, "both": both, case.relation: right_place}


def _count(case: Case, sight: Sight, judge: Judge) -> Parts:
    """As many boxes as asked for, no more of anything, each with the thing among its five likeliest, and the thing
    the likeliest of all by their mean."""
    code, things = case.codes[0], sight.things
    number = len(things) == case.count
    named = bool(things) and all(code in judge.best(thing.named.chances) for thing in things)
    named = named and judge.best(torch.stack([thing.named.chances for thing in things]).mean(0), 1)[0] == code
    return {"correct": number and named, "number": number, "object": named, f"n={case.count}": number and named}


_SCORES: Mapping[str, Callable[[Case, Sight, Judge], Parts]] = {
    "single-everyday": _one,
    "single": _one,
    "synonym": _one,
    "two": _two,
    "count": _count,
    "colour": _colour,
    "position": _position,
    "style": _style,
    "background": _background,
}


def shares(scored: Sequence[Parts]) -> dict[str, float]:
    """Of each part's name the share that is right, of the cases that have it."""
    names = list(dict.fromkeys(name for parts in scored for name in parts))
    held = {name: [parts[name] for parts in scored if name in parts] for name in names}
    return {name: round(sum(values) / len(values), 4) for name, values in held.items()}
