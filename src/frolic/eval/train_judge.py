"""Train the judge's two nets on real renders."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from frolic.accel.arithmetic import has_bfloat16
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
from frolic.eval.stored import as_stored, packed, unpacked
from frolic.eval.suites import Known
from frolic.eval.training import Recipe, Tell, build, fit, step_generator
from frolic.io.files import write_bytes

if TYPE_CHECKING:
    from frolic.data.starter.concepts import Concept

CLASSIFIER = Recipe(steps=4800, batch=128, rate=4e-3)
DETECTOR = Recipe(steps=3200, batch=64, rate=3e-3)
FINISH = Recipe(steps=800, batch=128, rate=1.5e-3, turning=0.03)
STYLE = Recipe(steps=1000, batch=128, rate=2e-3)
FINISHED = 0.65
"""How much of the classifier's weights the finish is. It knows things in colours that are not theirs, and forgets a
few of the others; between the two, nearly all of the gain is there and a third of the loss."""
IGNORED = -100
N = TypeVar("N", ClassifierNet, detector.DetectorNet)
_SMOOTHING = 0.05
_GROWTH = ((0.3, 32), (0.6, 48), (1.0, SIDE))
"""The classifier's pictures grow: up to each share of the steps they have this side. Small ones cost a third."""


@dataclass(frozen=True)
class Rows:
    """What the judge must know of each of the pack's pictures: all [N].

    ``concept`` and ``style`` are classes, ``dyeable`` whether it may take another colour, ``placeable`` whether scenes
    hold it.
    """

    concept: Tensor
    style: Tensor
    dyeable: Tensor
    placeable: Tensor


def rows_of(concepts: Sequence[Concept], pictures: int) -> Rows:
    """The classes of every picture of a pack; the order of ``concepts`` is that of the classes."""
    concept = torch.full((pictures,), IGNORED)
    style = concept.clone()
    dyeable, placeable = (torch.zeros(pictures, dtype=torch.bool) for _ in range(2))
    for index, item in enumerate(concepts):
        named = {word for caption in item.captions for word in caption.split()} & set(COLOURS)
        for word, row in {main_style(item.code): item.row, **item.styles}.items():
            concept[row], style[row] = index, STYLES.index(word)
            placeable[row] = bool(item.noun)
            if row == item.row and item.colour in COLOURS:
                dyeable[row] = not named
    return Rows(concept, style, dyeable, placeable)


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
    begun: ClassifierNet | None = None,
) -> ClassifierNet | None:
    """A net that tells the concepts apart, or None when ``seconds`` were over before the end; then call it again.

    With ``begun``, a net that does, it is finished: a third of what a copy of it goes on with are things that take
    colours, and the weights that come back are ``FINISHED`` parts of that copy's.
    """
    made = build(lambda: ClassifierNet(int(rows.concept.max()) + 1), recipe.seed) if begun is None else deepcopy(begun)
    assert isinstance(made, ClassifierNet)
    net = made.requires_grad_(True)
    # Another part teaches this head, on features that are done.
    net.style.requires_grad_(False)
    known, dyeable = (rows.concept >= 0).nonzero()[:, 0], rows.dyeable.nonzero()[:, 0]
    dyed_share = 0.6 if begun is None else 0.85

    def loss_at(step: int) -> Tensor:
        dice = Dice(step_generator(recipe, step), held_out=False)
        picked = _epoch(known, recipe, step)
        side = SIDE if begun else next(side for share, side in _GROWTH if step < share * recipe.steps)
        if begun and len(dyeable):
            third = len(picked) // 3
            picked[:third] = dyeable[torch.randint(len(dyeable), (third,), generator=dice.generator)]
        cut = cuts.at(picked, side)
        dyed = (rows.dyeable[picked] & dice.chance(len(picked), dyed_share)).nonzero()[:, 0]
        if len(dyed):
            colour = torch.randint(len(COLOURS), (len(dyed),), generator=dice.generator)
            cut[dyed] = recolour(cut[dyed], cuts.hue[picked[dyed]], colour, dice)
        # What is hard comes later: with all of it from the start nothing is learnt for hundreds of steps.
        hard = 1.0 if begun else min(1.0, 3 * step / recipe.steps)
        x = crowd(cut, dice, side, scenic=0.3 * hard, neighbours=0.3 * hard, strength=0.2 + 0.5 * hard)
        with _half():
            said = net(x.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(said.concept.float(), rows.concept[picked], label_smoothing=_SMOOTHING)

    part = "classifier" if begun is None else "finish"
    if not fit(net, loss_at, recipe, part, state, seconds, tell):
        return None
    return net if begun is None else _between(begun, net, FINISHED)


def _between(first: ClassifierNet, last: ClassifierNet, share: float) -> ClassifierNet:
    """``last`` with ``share`` of its own weights and the rest of ``first``'s, rounded as they will be stored."""
    old = first.state_dict()
    mixed = {
        name: torch.lerp(old[name].float(), value, share) if value.is_floating_point() else value
        for name, value in last.state_dict().items()
    }
    last.load_state_dict(mixed)
    as_stored(last)
    return last


def train_style(
    cuts: Cuts,
    rows: Rows,
    net: ClassifierNet,
    recipe: Recipe = STYLE,
    state: Path | None = None,
    seconds: float | None = None,
    tell: Tell | None = None,
) -> ClassifierNet | None:
    """``net`` with a head for styles on its features, which stay; None when ``seconds`` were over before the end."""
    net.eval().requires_grad_(False)
    net.style.requires_grad_(True)
    known = (rows.concept >= 0).nonzero()[:, 0]

    def loss_at(step: int) -> Tensor:
        dice = Dice(step_generator(recipe, step), held_out=False)
        picked = _epoch(known, recipe, step)
        x = crowd(cuts.at(picked, SIDE), dice, SIDE, scenic=0.3, neighbours=0.15, strength=0.6)
        with torch.no_grad(), _half():
            _, every = net.features(x.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(net.style(every.float()), rows.style[picked])

    return net if fit(net.style, loss_at, recipe, "style", state, seconds, tell) else None


def _half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16(torch.device("cpu")))


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
        with _half():
            said, named = net(x.contiguous(memory_format=torch.channels_last))
        loss = detector.loss(said.float(), heat, numbers, counts)
        return loss + 0.5 * F.cross_entropy(named.float(), label, ignore_index=UNSURE)

    return net if fit(net, loss_at, recipe, "detector", state, seconds, tell) else None


PARTS = ("classifier", "finish", "style", "detector")
RECIPES: Mapping[str, Recipe] = {"classifier": CLASSIFIER, "finish": FINISH, "style": STYLE, "detector": DETECTOR}


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
        elif part == "classifier":
            net = train_classifier(cuts, rows, chosen[part], state, left, tell)
        else:
            begun = _load(ClassifierNet(len(concepts)), out / FILES[0])
            if part == "finish":
                net = train_classifier(cuts, rows, chosen[part], state, left, tell, begun)
            else:
                net = train_style(cuts, rows, begun, chosen[part], state, left, tell)
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
    """Measure the nets in ``out`` on true pictures, and write ``judge.json``."""
    nets = (_load(ClassifierNet(len(facts["concepts"])), out / FILES[0]), _load(detector.DetectorNet(), out / FILES[1]))
    named = zip(("classifier", "detector"), nets, strict=True)
    facts["parameters"] = {name: sum(weight.numel() for weight in net.parameters()) for name, net in named}
    facts["ceilings"] = truth.ceilings(Judge(*nets, facts), cuts, concepts, limit)
    write_bytes(out / "judge.json", _text(facts).encode(), force=True)
    return facts


def _facts(concept: Known) -> dict[str, Any]:
    """What is not empty."""
    return {name: value for name, value in asdict(concept).items() if value}


def _text(facts: Mapping[str, Any]) -> str:
    """JSON with a line a concept."""
    head = json.dumps({name: value for name, value in facts.items() if name != "concepts"}, indent=1)
    rows = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in facts["concepts"])
    return f'{head[:-2]},\n "concepts": [\n{rows}\n]}}\n'


def _load(net: N, path: Path) -> N:
    """``net`` with the weights at ``path``. Raises FileError when they are missing or another net's."""
    try:
        net.load_state_dict(unpacked(load_file(path)))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise FileError(f"Train the judge again: {path} cannot be used ({error}).") from error
    return net


def _save(net: nn.Module, path: Path) -> None:
    write_bytes(path, safetensors.torch.save(packed(net.state_dict())), force=True)
