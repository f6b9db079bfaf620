"""Train the judge on real renders, measure it on renderings of a kind it never saw, and write it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from frolic.data.starter.pack import read
from frolic.errors import FileError, RequestError
from frolic.eval.judge import SIDE, Judge, JudgeNet
from frolic.eval.renders import HELD_OUT_BANDS, HELD_OUT_KINDS, TRAIN_KINDS, Dice, premultiplied, render

FORMAT = 1
HELD_OUT_SIDE = 128
HELD_OUT_SEED = 20_000


@dataclass(frozen=True)
class JudgeTraining:
    """The whole recipe; about eight minutes on one core with bf16 matrix units."""

    steps: int = 2800
    batch: int = 128
    rate: float = 4e-3
    weight_decay: float = 0.02
    smoothing: float = 0.05
    seed: int = 0
    held_out_views: int = 4


@dataclass(frozen=True)
class Progress:
    step: int
    steps: int
    loss: float


def train(
    rgba_N4HW: Tensor, recipe: JudgeTraining, progress: Callable[[Progress], None] | None = None
) -> tuple[JudgeNet, float]:
    """A net that tells the N cut-outs (uint8) apart, and its top-1 accuracy on held-out renderings, 0 to 1."""
    if recipe.steps < 1 or recipe.batch < 2:
        raise RequestError("Give the judge at least one step and a batch of two.")
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = JudgeNet(len(rgba_N4HW)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    dice = Dice(generator, held_out=False)
    cuts = premultiplied(rgba_N4HW, SIDE)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.15, cycle_momentum=False
    )
    order = torch.empty(0, dtype=torch.long)
    for step in range(recipe.steps):
        while len(order) < recipe.batch:
            order = torch.cat([order, torch.randperm(len(cuts), generator=generator)])
        rows, order = order[: recipe.batch], order[recipe.batch :]
        x = render(cuts[rows], dice, SIDE).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(x)
        loss = F.cross_entropy(logits.float(), rows, label_smoothing=recipe.smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(Progress(step + 1, recipe.steps, loss.item()))
    net.to(torch.bfloat16).float().eval()  # what is measured is what is shipped
    return net, held_out_accuracy(net, rgba_N4HW, recipe.held_out_views)


@torch.no_grad()
def held_out_accuracy(net: JudgeNet, rgba_N4HW: Tensor, views: int, batch: int = 64) -> float:
    """Top-1 over ``views`` held-out renderings of every concept at 128 pixels."""
    judge = Judge(net, [str(index) for index in range(len(rgba_N4HW))])
    dice = Dice(torch.Generator().manual_seed(HELD_OUT_SEED), held_out=True)
    hits = 0
    for _ in range(views):
        for rows in torch.arange(len(rgba_N4HW)).split(batch):
            x = render(premultiplied(rgba_N4HW[rows], HELD_OUT_SIDE), dice, HELD_OUT_SIDE)
            hits += int((judge.logits(x).argmax(-1) == rows).sum())
    return hits / (views * len(rgba_N4HW))


def train_judge(
    data: Path,
    out: Path,
    recipe: JudgeTraining,
    progress: Callable[[Progress], None] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Read the pack in ``data``, train, write ``judge.safetensors`` (bf16) and ``judge.json`` to ``out``.

    Returns the content of ``judge.json``. Raises FileError when the pack is missing, ``out`` cannot be written, or a
    judge is there already and ``force`` is not set.
    """
    if not force and any((out / name).exists() for name in ("judge.json", "judge.safetensors")):
        raise FileError(f"Give another --out, or --force to replace the judge in {out}.")
    rgba, concepts = read(data)
    pack = json.loads((data / "pack.json").read_text("utf-8"))
    net, accuracy = train(rgba, recipe, progress)
    facts = {
        "format": FORMAT,
        "side": SIDE,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "held_out": {
            "accuracy": round(accuracy, 4),
            "renderings": recipe.held_out_views * len(concepts),
            "side": HELD_OUT_SIDE,
            "seed": HELD_OUT_SEED,
            "reserved_tenths": list(HELD_OUT_BANDS),
            "backgrounds": [kind.__name__.strip("_") for kind in HELD_OUT_KINDS],
        },
        "training": {**asdict(recipe), "backgrounds": [kind.__name__.strip("_") for kind in TRAIN_KINDS]},
        "sprites_sha256": pack["files"]["sprites.safetensors"],
        "codes": [concept.code for concept in concepts],
        "names": [concept.name for concept in concepts],
    }
    save(net, facts, out)
    return facts


def save(net: JudgeNet, facts: dict[str, Any], out: Path) -> None:
    """Write both files whole, the weights before the facts that describe them."""
    state = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in net.state_dict().items()
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".judge-") as folder:
            text, weights = Path(folder) / "judge.json", Path(folder) / "judge.safetensors"
            text.write_text(json.dumps(facts, ensure_ascii=False, indent=1), "utf-8")
            save_file({name: value.contiguous() for name, value in state.items()}, weights)
            weights.chmod(text.stat().st_mode)
            for path in (weights, text):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                path.replace(out / path.name)
    except OSError as error:
        raise FileError(f"Choose another folder with --out: {out} cannot be written ({error.strerror}).") from error
