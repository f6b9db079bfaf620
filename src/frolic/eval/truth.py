"""True pictures of the suites' prompts, out of the pack's cut-outs and held-out numbers only: what a perfect model
would draw. How many of them the judge accepts is the ceiling of every figure that it gives.

S side of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from frolic.data.compose import PALETTE
from frolic.eval.dice import Dice
from frolic.eval.grounds import SCENIC, background, landscapes
from frolic.eval.judge import Judge
from frolic.eval.layouts import Cuts, Put, compose, grid, overlap
from frolic.eval.recolour import COLOURS
from frolic.eval.relations import holds
from frolic.eval.renders import degrade
from frolic.eval.scoring import Parts, score, shares
from frolic.eval.suites import SUITES, Case, Known, suite

if TYPE_CHECKING:
    from frolic.data.starter.concepts import Concept

SIDE = 256
SEED = 20_000
_TRIES, _PLACES = 60, 24
_SIZES = (0.95, 0.56, 0.5, 0.46)


def picture(
    case: Case, cuts: Cuts, concepts: Mapping[str, Concept], seed: int, side: int = SIDE, clean: bool = False
) -> Tensor:
    """[3, S, S] in [-1, 1]: ``case`` as it was asked for, with this ``seed``. ``clean``: as a model should draw it, on
    white where no ground is asked for, without the jitter and the blotches that judging must survive."""
    dice = Dice(torch.Generator().manual_seed(SEED + seed), held_out=True)
    puts = _puts(case, cuts, [concepts[code] for code in case.codes], dice)
    x = compose(cuts, [puts], _ground(case, dice, side, clean), dice, clean)
    return (x if clean else degrade(x, dice, 0.6))[0].clamp(0, 1) * 2 - 1


def _ground(case: Case, dice: Dice, side: int, clean: bool) -> Tensor:
    if case.ground in SCENIC:
        return landscapes(torch.tensor([SCENIC.index(case.ground)]), side, dice)
    word = case.ground or ("white" if clean else "")
    if not word:
        kept = [word for word in PALETTE if word != case.colour]
        if float(dice.uniform(1)) < 0.4:
            return background(1, side, dice)[0]
        word = kept[int(torch.randint(len(kept), (1,), generator=dice.generator))]
    base = torch.tensor(PALETTE[word])[None, :, None, None] / 255
    # A gradient that its word still names.
    paler = 0.0 if word in ("white", "black") else 0.25 * float(dice.uniform(1))
    ramp = torch.linspace(0, 1, side)[:, None].expand(side, side)
    return torch.lerp(base.expand(1, 3, side, side), torch.ones(1), paler * ramp)


def _puts(case: Case, cuts: Cuts, concepts: Sequence[Concept], dice: Dice) -> list[Put]:
    """Things that do not hide each other; those of a relation at random until it holds."""
    wanted = [concepts[0]] * case.count if case.count > 1 else list(concepts)
    rows = [concept.styles[case.style] if case.style else concept.row for concept in wanted]
    colour = COLOURS.index(case.colour) if case.colour else -1
    limit = 0.35 if case.relation == "front" else 0.08
    most = _SIZES[len(rows) - 1]
    low = max(0.5, 0.6 * most) if len(rows) == 1 else 0.6 * most
    if case.count > 1 and bool(dice.chance(1, 0.5)):
        return grid(rows, [colour] * len(rows), dice)
    puts: list[Put] = []
    for trial in range(_TRIES):
        # Smaller and smaller, so that there comes a size at which they fit.
        high = low + (most - low) * (1 - 0.9 * trial / _TRIES)
        sides = dice.uniform(len(rows), low=low, high=high).tolist()
        puts = _apart(cuts, rows, sides, colour, limit, dice)
        boxes = [cuts.box(put) for put in puts]
        if len(puts) == len(rows) and (not case.relation or holds(case.relation, boxes[0], boxes[1])):
            break
    # What is in front is drawn last.
    return puts[::-1] if case.relation == "front" else puts


def _apart(cuts: Cuts, rows: Sequence[int], sides: Sequence[float], colour: int, limit: float, dice: Dice) -> list[Put]:
    """One after the other where it hides no more than ``limit`` of another; fewer where no such place is found."""
    puts: list[Put] = []
    for row, side in zip(rows, sides, strict=True):
        room = max(0.03, 0.5 - side * 0.5)
        for x, y in dice.free(_PLACES, 2).tolist():
            put = Put(row, 0.5 + (2 * x - 1) * room, 0.5 + (2 * y - 1) * room, side, False, colour)
            if all(overlap(cuts.box(put), cuts.box(other)) <= limit for other in puts):
                puts.append(put)
                break
    return puts


def ceilings(
    judge: Judge,
    cuts: Cuts,
    concepts: Sequence[Concept],
    limit: int | None = None,
    suites: Sequence[str] = tuple(SUITES),
) -> dict[str, dict[str, float]]:
    """The judge's own figures on true pictures of the suites: ``{suite: {accuracy, n, and each part}}``."""
    by_code = {concept.code: concept for concept in concepts}
    found = {}
    for name in suites:
        if not SUITES[name](judge.concepts):
            continue
        cases = suite(name, judge.concepts, limit)
        scored: list[Parts] = []
        for first in range(0, len(cases), 32):
            part = cases[first : first + 32]
            x = torch.stack([picture(case, cuts, by_code, first + k) for k, case in enumerate(part)])
            scored += [score(case, sight, judge) for case, sight in zip(part, judge.look(x), strict=True)]
        parts = shares(scored)
        found[name] = {"accuracy": parts.pop("correct"), "n": len(cases), **parts}
    return found


def known(concept: Concept) -> Known:
    """What the judge keeps of a concept."""
    return Known(
        code=concept.code,
        name=concept.name,
        caption=concept.captions[0],
        noun=concept.noun,
        plural=concept.plural,
        colour=concept.colour,
        everyday=concept.everyday,
        styles=tuple(sorted(concept.styles)),
    )
