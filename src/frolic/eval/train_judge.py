"""Train the judge's two nets on real renders."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from frolic.data.starter.pack import read
from frolic.errors import FileError
from frolic.eval import detector, truth
from frolic.eval.classifier import SIDE, STYLES, ClassifierNet
from frolic.eval.dice import HELD_OUT_BANDS, Dice
from frolic.eval.grounds import HELD_OUT_KINDS, UNSURE, ground
from frolic.eval.judge import FILES, FORMAT, Judge
from frolic.eval.layouts import Cuts, compose, scatter
from frolic.eval.recolour import COLOURS, recolour
from frolic.eval.renders import crowd, degrade
from frolic.eval.suites import Known
from frolic.eval.training import Recipe, Tell, build, fit, step_generator
from frolic.io.files import write_bytes

if TYPE_CHECKING:
    from frolic.data.starter.concepts import Concept

CLASSIFIER = Recipe(steps=4800, batch=128, rate=4e-3)
DETECTOR = Recipe(steps=3200, batch=64, rate=3e-3)
FINISH = Recipe(steps=800, batch=128, rate=1.5e-3, turning=0.03)
"""The classifier's last part, on things in colours that are not theirs and on styles."""
IGNORED = -100
N = TypeVar("N", ClassifierNet, detector.DetectorNet)
_SMOOTHING = 0.05
_GROWTH = ((0.3, 32), (0.6, 48), (1.0, SIDE))
"""The classifier's pictures grow: up to each share of the steps they have this side. Small ones cost a third."""


@dataclass(frozen=True)
class Rows:
    """What the judge must know of each of the pack's pictures: all [N].

    ``concept`` and ``style`` are classes, ``colour`` the place of its own colour in ``COLOURS`` or ``IGNORED``,
    ``dyeable`` whether it may take another, ``placeable`` whether scenes hold it.
    """

    concept: Tensor
    style: Tensor
    colour: Tensor
    dyeable: Tensor
    placeable: Tensor


def rows_of(concepts: Sequence[Concept], pictures: int) -> Rows:
    """The classes of every picture of a pack; the order of ``concepts`` is that of the classes."""
    concept = torch.full((pictures,), IGNORED)
    style, colour = concept.clone(), concept.clone()
    dyeable, placeable = (torch.zeros(pictures, dtype=torch.bool) for _ in range(2))
    for index, item in enumerate(concepts):
        named = {word for caption in item.captions for word in caption.split()} & set(COLOURS)
        for word, row in {main_style(item.code): item.row, **item.styles}.items():
            concept[row], style[row] = index, STYLES.index(word)
            placeable[row] = bool(item.noun)
            if row == item.row and item.colour in COLOURS:
                colour[row] = COLOURS.index(item.colour)
                dyeable[row] = not named
    return Rows(concept, style, colour, dyeable, placeable)


def main_style(code: str) -> str:
    """In which style a concept's main picture is drawn: clip art and icons are not of the emoji set."""
    return {"clip": "clipart", "icon": "3d"}.get(code.partition("-")[0], "3d")


def train_classifier(
    cuts: Cuts,
    rows: Rows,
    recipe: Recipe = CLASSIFIER,
    state: Path | None = None,
    seconds: float | None = None,
    tell: Tell | None = None,
    finish: ClassifierNet | None = None,
) -> ClassifierNet | None:
    """A net that tells the concepts apart, or None when ``seconds`` were over before the end; then call it again.

    With ``finish``, a net that does, it goes on from that, and a third of what it sees are things that take colours.
    """
    net = finish or build(lambda: ClassifierNet(int(rows.concept.max()) + 1), recipe.seed)
    assert isinstance(net, ClassifierNet)
    net.requires_grad_(True)
    known, dyeable = (rows.concept >= 0).nonzero()[:, 0], rows.dyeable.nonzero()[:, 0]
    heed, hue_heed, dyed_share = (0.3, 0.3, 0.6) if finish is None else (1.0, 0.5, 0.85)

    def loss_at(step: int) -> Tensor:
        dice = Dice(step_generator(recipe, step), held_out=False)
        picked = _epoch(known, recipe, step)
        side = SIDE if finish else next(side for share, side in _GROWTH if step < share * recipe.steps)
        if finish and len(dyeable):
            third = len(picked) // 3
            picked[:third] = dyeable[torch.randint(len(dyeable), (third,), generator=dice.generator)]
        cut = cuts.at(picked, side)
        colour = rows.colour[picked].clone()
        dyed = (rows.dyeable[picked] & dice.chance(len(picked), dyed_share)).nonzero()[:, 0]
        if len(dyed):
            colour[dyed] = torch.randint(len(COLOURS), (len(dyed),), generator=dice.generator)
            cut[dyed] = recolour(cut[dyed], cuts.hue[picked[dyed]], colour[dyed], dice)
        # What is hard comes later: with all of it from the start nothing is learnt for hundreds of steps.
        hard = 1.0 if finish else min(1.0, 3 * step / recipe.steps)
        x = crowd(cut, dice, side, scenic=0.3 * hard, neighbours=0.3 * hard, strength=0.2 + 0.5 * hard)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            said = net(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(said.concept.float(), rows.concept[picked], label_smoothing=_SMOOTHING)
        loss = loss + heed * F.cross_entropy(said.style.float(), rows.style[picked])
        if bool((colour >= 0).any()):
            loss = loss + hue_heed * F.cross_entropy(said.colour.float(), colour, ignore_index=IGNORED)
        return loss

    return net if fit(net, loss_at, recipe, "classifier", state, seconds, tell) else None


def _epoch(known: Tensor, recipe: Recipe, step: int) -> Tensor:
    """Step ``step``'s rows of a fresh order of all of them a round."""
    first = step * recipe.batch
    parts = []
    for turn in range(first // len(known), (first + recipe.batch - 1) // len(known) + 1):
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(recipe.seed * 65_537 + turn))
        low = max(0, first - turn * len(known))
        parts.append(known[order[low : first + recipe.batch - turn * len(known)]])
    return torch.cat(parts)


def train_detector(
    cuts: Cuts,
    rows: Rows,
    recipe: Recipe = DETECTOR,
    state: Path | None = None,
    seconds: float | None = None,
    tell: Tell | None = None,
) -> detector.DetectorNet | None:
    """A net that finds things and names landscapes, or None when ``seconds`` were over before the end."""
    net = build(detector.DetectorNet, recipe.seed)
    assert isinstance(net, detector.DetectorNet)
    placeable = rows.placeable.nonzero()[:, 0]

    def loss_at(step: int) -> Tensor:
        dice = Dice(step_generator(recipe, step), held_out=False)
        side = detector.SIDE if step > 0.4 * recipe.steps else 64
        pictures = scatter(cuts, recipe.batch, placeable, rows.dyeable, dice)
        under, label = ground(recipe.batch, side, dice, scenic=0.45)
        x = degrade(compose(cuts, pictures, under, dice), dice, 0.6).clamp(0, 1) * 2 - 1
        heat, numbers, counts = detector.targets(
            [[cuts.box(put) for put in puts] for puts in pictures], side // detector.STRIDE
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            said, named = net(x.contiguous(memory_format=torch.channels_last))
        loss = detector.loss(said.float(), heat, numbers, counts)
        return loss + 0.5 * F.cross_entropy(named.float(), label, ignore_index=UNSURE)

    return net if fit(net, loss_at, recipe, "detector", state, seconds, tell) else None


PARTS = ("classifier", "finish", "detector")
RECIPES: Mapping[str, Recipe] = {"classifier": CLASSIFIER, "finish": FINISH, "detector": DETECTOR}


def train_judge(
    data: Path,
    out: Path,
    parts: Sequence[str] = PARTS,
    recipes: Mapping[str, Recipe] | None = None,
    seconds: float | None = None,
    tell: Tell | None = None,
    force: bool = False,
    limit: int | None = None,
) -> dict[str, Any] | None:
    """Read the pack in ``data``, train ``parts``, and write each one's weights (bf16) to ``out``; once both are there,
    measure them on true pictures (``limit`` a suite) and write ``judge.json``, whose content is returned.

    None comes back when ``seconds`` were over, or a part is still missing: then call it again, and it goes on.
    Raises FileError when the pack is missing, ``out`` cannot be written, or a judge is there already and ``force`` is
    not set.
    """
    if not force and (out / "judge.json").exists():
        raise FileError(f"Give another --out, or --force to replace the judge in {out}.")
    out.mkdir(parents=True, exist_ok=True)
    rgba, concepts = read(data)
    cuts, rows = Cuts(rgba), rows_of(concepts, len(rgba))
    chosen = dict(RECIPES) | dict(recipes or {})
    began = time.monotonic()
    for part in _unfinished(parts, out):
        left = None if seconds is None else max(0.0, seconds - (time.monotonic() - began))
        state = out / f"{part}.state"
        net: nn.Module | None
        if part == "detector":
            net = train_detector(cuts, rows, chosen[part], state, left, tell)
        else:
            begun = _load(ClassifierNet(len(concepts)), out / FILES[0]) if part == "finish" else None
            net = train_classifier(cuts, rows, chosen[part], state, left, tell, begun)
        if net is None:
            return None
        _save(net, out / FILES[part == "detector"])
        state.unlink(missing_ok=True)
    if not all((out / name).exists() for name in FILES):
        return None
    pack = json.loads((data / "pack.json").read_text("utf-8"))
    facts = {
        "format": FORMAT,
        "side": {"classifier": SIDE, "detector": detector.SIDE},
        "colour_by": "net",
        "held_out": {
            "side": truth.SIDE,
            "seed": truth.SEED,
            "reserved_tenths": list(HELD_OUT_BANDS),
            "backgrounds": [kind.__name__.strip("_") for kind in HELD_OUT_KINDS],
        },
        "training": {name: asdict(recipe) for name, recipe in chosen.items()},
        "pack": pack["files"],
        "concepts": [_facts(truth.known(concept)) for concept in concepts],
    }
    return measure(out, cuts, concepts, facts, limit)


def _unfinished(parts: Sequence[str], out: Path) -> Sequence[str]:
    """What is still to be trained: not the parts before one that was stopped half-way."""
    stopped = [index for index, part in enumerate(parts) if (out / f"{part}.state").exists()]
    return parts[stopped[-1] :] if stopped else parts


def measure(
    out: Path, cuts: Cuts, concepts: Sequence[Concept], facts: dict[str, Any], limit: int | None = None
) -> dict[str, Any]:
    """Measure the nets in ``out`` on true pictures with either way to tell a thing's colour, keep the better way, and
    write ``judge.json``."""
    nets = (_load(ClassifierNet(len(facts["concepts"])), out / FILES[0]), _load(detector.DetectorNet(), out / FILES[1]))
    named = zip(("classifier", "detector"), nets, strict=True)
    facts["parameters"] = {name: sum(weight.numel() for weight in net.parameters()) for name, net in named}
    ways: dict[str, float] = {}
    for way in ("pixels", "net"):
        judge = Judge(*nets, facts | {"colour_by": way})
        found = truth.ceilings(judge, cuts, concepts, limit, suites=("colour",))
        ways[way] = found.get("colour", {}).get("colour", 0.0)
    facts["colour_accuracy"] = ways
    facts["colour_by"] = max(ways, key=lambda way: ways[way])
    facts["ceilings"] = truth.ceilings(Judge(*nets, facts), cuts, concepts, limit)
    write_bytes(out / "judge.json", _text(facts).encode(), force=True)
    return facts


def _facts(concept: Known) -> dict[str, Any]:
    """What is not empty."""
    return {name: value for name, value in asdict(concept).items() if value}


def _text(facts: Mapping[str, Any]) -> str:
    """JSON with a line a concept."""
    head = json.dumps({name: value for name, value in facts.items() if name != "concepts"}, indent=1)
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in facts["concepts"])
    return f'{head[:-2]},\n "concepts": [\n{rows}\n]}}\n'


def _load(net: N, path: Path) -> N:
    """``net`` with the weights at ``path``. Raises FileError when they are missing or another net's."""
    try:
        state = load_file(path)
        net.load_state_dict({name: value.float() for name, value in state.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FileError(f"Train the judge again: {path} cannot be used ({error}).") from error
    return net


def _save(net: nn.Module, path: Path) -> None:
    state = net.state_dict()
    kept = {name: value.to(torch.bfloat16) if value.is_floating_point() else value for name, value in state.items()}
    data = safetensors.torch.save({name: value.contiguous() for name, value in kept.items()})
    write_bytes(path, data, force=True)
