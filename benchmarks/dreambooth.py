"""Teach the starter a thing that it never saw, from 8 pictures: ``python benchmarks/dreambooth.py --out NAME.json``.

Trains an adapter by the recipe ``starter/dreambooth`` (or takes ``--adapter FILE``), draws prompts that were not
trained with, and lets a classifier that was trained for the thing, on other poses, grounds and jitter, say in how many
it is; without the adapter it should be in none. The suite of everyday things is drawn with the adapter and without.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mascot
import torch
from processes import machine
from torch import Tensor, nn
from torch.nn import functional as F

import frolic
from frolic.data.starter.pack import default_folder, read
from frolic.eval.classifier import SIDE, ClassifierNet, shrink
from frolic.eval.dice import Dice
from frolic.eval.judge import Judge
from frolic.eval.recolour import COLOURS as COLOURS_OF_THINGS
from frolic.eval.recolour import dominant_hue, recolour
from frolic.eval.renders import crowd, premultiplied, render
from frolic.eval.starter import drawer, evaluate, summarise
from frolic.eval.suites import suite
from frolic.io.media import save_png
from frolic.pipeline.result import to_image

WORD = "plimbo"
SURE = 0.5
TRAINED = {"white": (1.0, 1.0, 1.0), "grey": (0.6, 0.6, 0.6), "blue": (0.45, 0.65, 0.95), "yellow": (0.98, 0.85, 0.4)}
COLOURS = ("red", "green", "orange", "pink", "black", "brown", "turquoise")
PLACES = ("on grass", "in the sky", "in the night sky", "in a room", "on the sea")
OTHERS = ("dog", "cat", "car", "tree", "pizza", "rocket", "apple", "guitar")
PROMPTS = (
    *(f"a {WORD} {place}" for place in PLACES),
    *(f"a {WORD} on a {colour} background" for colour in COLOURS),
    *(f"{WORD}, 3d" for _ in range(1)),
    *(f"a picture of a {WORD}", f"a cute {WORD}", f"a {WORD}", WORD),
    *(f"a {WORD} next to a {other}" for other in OTHERS),
    *(f"a {other} and a {WORD}" for other in OTHERS),
    *(f"a {WORD} to the left of a {other}" for other in OTHERS[:4]),
    *(f"a {WORD} above a {other}" for other in OTHERS[4:]),
)


def main() -> int:
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        trained: dict[str, Any] = {}
        adapter = options.adapter
        if adapter is None:
            write_pictures(work / "pictures")
            trained = train(work, options)
            adapter = work / "run" / "export" / "pytorch_lora_weights.safetensors"
            if options.keep is not None:
                options.keep.parent.mkdir(parents=True, exist_ok=True)
                options.keep.write_bytes(adapter.read_bytes())
        finder, exam = train_finder(options.finder_steps)
        report = {
            "machine": machine(options.threads),
            "training": trained,
            "finder": exam,
            "found": find(finder, adapter, options),
            "others": others(adapter, options),
        }
    print(json.dumps(report, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def write_pictures(folder: Path) -> None:
    """Eight poses on four grounds, with what each shows."""
    folder.mkdir()
    names = [*TRAINED, *TRAINED]
    made = mascot.pictures(list(range(8)), 256, [TRAINED[name] for name in names])
    for number, (name, picture) in enumerate(zip(names, made, strict=True)):
        save_png(to_image(picture), folder / f"{number}.png", None)
        (folder / f"{number}.txt").write_text(f"a {WORD} on a {name} background\n", "utf-8")


def train(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "frolic", "train", "starter/dreambooth", f"vars.pictures={work / 'pictures'}"),
        *(f"vars.model={options.model}", f"vars.title={WORD}", f"data.cache={work / 'cache'}"),
        *(f"output.folder={work / 'run'}", *options.settings),
    ]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(spent, 1), "pictures": 8}


def train_finder(steps: int) -> tuple[nn.Module, dict[str, Any]]:
    """A classifier of two, the creature or any of the starter's own things, and how it does on what it has not seen."""
    torch.manual_seed(0)
    ours = creatures(10_000, 160)
    sprites, concepts = read(default_folder())
    everything = premultiplied(sprites[[concept.row for concept in concepts]], 112)
    unseen = torch.arange(len(everything)) % 16 == 7
    theirs = everything[~unseen]
    net = ClassifierNet(2).train()
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    dice = Dice(torch.Generator().manual_seed(7), held_out=False)
    for _ in range(steps):
        some = torch.randint(len(ours), (32,), generator=dice.generator)
        other = torch.randint(len(theirs), (32,), generator=dice.generator)
        # A third of the others is as violet as the creature: colour alone must not do.
        rest = theirs[other]
        rest[:11] = violet(rest[:11], dice)
        cuts = torch.cat([ours[some], rest])
        # Its own things are neighbours of no creature here, so a creature's mate never counts as one.
        x = torch.cat([render(cuts[:32], dice, SIDE, 0.5), crowd(cuts[32:], dice, SIDE, 0.5, 0.4)])
        loss = F.cross_entropy(net(x).concept, torch.tensor([1] * 32 + [0] * 32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return net.eval(), examine(net, everything[unseen])


def violet(cuts: Tensor, dice: Dice) -> Tensor:
    """Premultiplied cut-outs in the creature's colour, those that have one hue."""
    return recolour(cuts, dominant_hue(cuts), torch.full((len(cuts),), COLOURS_OF_THINGS.index("purple")), dice)


def creatures(first: int, count: int) -> Tensor:
    """Cut-outs in the poses of ``count`` seeds, premultiplied."""
    return premultiplied(torch.stack([mascot.cutout(first + seed, 112) for seed in range(count)]), 112)


@torch.inference_mode()
def examine(finder: nn.Module, unseen: Tensor) -> dict[str, Any]:
    """On true pictures of poses, things, grounds and jitter that it was not trained with: in how many of those with the
    creature it is seen, and in how many of the others, as they are and made violet, looked at as in ``find``."""
    dice = Dice(torch.Generator().manual_seed(8), held_out=True)
    shares = {}
    kinds = {"recall": creatures(20_000, 64), "false_alarms": unseen, "false_alarms_violet": violet(unseen, dice)}
    for name, cuts in kinds.items():
        pictures = [row for part in cuts.split(16) for row in render(part, dice, 256, 0.5)]
        shares[name] = round(sum(seen(finder, picture) for picture in pictures) / len(pictures), 3)
    return {"n": {"creatures": 64, "others": len(unseen)}, **shares}


def seen(finder: nn.Module, picture: Tensor) -> bool:
    """Whether the creature is in ``picture`` [3, H, W]."""
    return float(finder(windows(picture)).concept.softmax(-1)[:, 1].max()) > SURE


def windows(picture: Tensor) -> Tensor:
    """The whole picture and thirteen parts of it, [14, 3, SIDE, SIDE]: a thing beside another fills one of them."""
    side = picture.shape[-1]
    parts = [picture]
    for share, places in ((0.7, 2), (0.5, 3)):
        size = round(side * share)
        steps = [round((side - size) * place / (places - 1)) for place in range(places)]
        parts += [picture[:, top : top + size, left : left + size] for top in steps for left in steps]
    return torch.cat([shrink(part[None]) for part in parts])


@torch.inference_mode()
def find(finder: nn.Module, adapter: Path, options: argparse.Namespace) -> dict[str, Any]:
    """In how many pictures of new prompts the creature is, with the adapter and without."""
    pipe = frolic.load(options.model)
    prompts = list(PROMPTS)[: options.limit]
    shares = {}
    for name, loras in (("with", {str(adapter): options.weight}), ("without", {})):
        found = []
        for start in range(0, len(prompts), 8):
            pixels = pipe(prompts[start : start + 8], seed=start, loras=loras, output="tensor").pixels
            assert pixels is not None
            found += [seen(finder, row) for row in pixels]
            if options.save is not None:
                options.save.mkdir(parents=True, exist_ok=True)
                for k, row in enumerate(pixels):
                    save_png(to_image(row), options.save / f"{name}-{start + k:02d}.png", None, force=True)
        alone = [one for prompt, one in zip(prompts, found, strict=True) if not any(o in prompt for o in OTHERS)]
        shares[name] = {"all": round(sum(found) / len(found), 3), "alone": round(sum(alone) / max(1, len(alone)), 3)}
    return {"prompts": len(prompts), "weight": options.weight, **shares}


def others(adapter: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The suite of everyday things, with the adapter and without."""
    judge, pipe = Judge.load(), frolic.load(options.model)
    cases = suite("single-everyday", judge.concepts, options.others)
    scores = {}
    for name, loras in (("with", {str(adapter): options.weight}), ("without", {})):
        started = time.monotonic()
        rows = [row for row, _ in evaluate(drawer(pipe, loras=loras), judge, cases, 0, 8)]
        scores[name] = summarise("single-everyday", rows, judge, 0, started).accuracy
    return {"n": len(cases), **scores}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="KEY=VALUE for the training")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--adapter", type=Path, help="an adapter to measure, instead of training one")
    parser.add_argument("--keep", type=Path, help="where to put the adapter that was trained")
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--limit", type=int, help="new prompts [all]")
    parser.add_argument("--others", type=int, default=100, help="prompts of everyday things")
    parser.add_argument("--finder-steps", type=int, default=300)
    parser.add_argument("--save", type=Path, help="a folder for the pictures")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
