"""What one step instead of twenty brings: ``python benchmarks/sprint.py --out benchmarks/results/NAME.json``.

A warm picture of the starter in 1, 2 and 20 steps, and a cold ``frolic PROMPT`` against ``python -c "import torch"``;
in fresh processes, in turns, within one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from processes import frolic_command, machine, run, shipped
from starter import settings
from turns import ratio, turns

HERE = Path(__file__).parent
PROMPT = "a red panda"
DRAWN = {"starter 20": ("model", 20), "sprint 2": ("sprint", 2), "sprint 1": ("sprint", 1)}


def main() -> int:
    options = _parser().parse_args()
    report = measure(options)
    for what, medians in report["medians"].items():
        print(what, ", ".join(f"{name}: {value:.3f}" for name, value in medians.items()))
    for what, found in report["ratios"].items():
        print(f"{what}: {found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every sample, and the ratios."""
    warm: dict[str, list[float]] = {name: [] for name in DRAWN}
    for name in turns(tuple(DRAWN), options.warm_pairs):
        folder, steps = DRAWN[name]
        model = shipped(folder)
        chosen = settings(model, steps, "cpu")
        command = [sys.executable, str(HERE / "warm.py"), "frolic", str(model), json.dumps(chosen)]
        warm[name].append(median(json.loads(run([*command, str(options.calls)], options.threads).output)))
    cold: dict[str, list[float]] = {"frolic": [], "import torch": []}
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "x.png"
        commands = {
            "frolic": [*frolic_command(), PROMPT, "-o", str(png), "--force"],
            "import torch": [sys.executable, "-c", "import torch"],
        }
        for command in commands.values():  # byte code is compiled and files come into the page cache
            run(command, options.threads)
        for name in turns(tuple(commands), options.pairs):
            cold[name].append(run(commands[name], options.threads).seconds)
    samples = {"warm_seconds": warm, "cold_seconds": cold}
    return {
        "machine": machine(options.threads),
        "settings": {"prompt": PROMPT, "size": "256x256"},
        "ratios": {
            "20 steps over 1": ratio(warm["starter 20"], warm["sprint 1"]),
            "20 steps over 2": ratio(warm["starter 20"], warm["sprint 2"]),
            "cold frolic over import torch": ratio(cold["frolic"], cold["import torch"]),
        },
        "medians": {what: {name: round(median(v), 4) for name, v in vs.items()} for what, vs in samples.items()},
        "samples": {what: {name: [round(x, 4) for x in v] for name, v in vs.items()} for what, vs in samples.items()},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-pairs", type=int, default=6, help="processes of each that draw warm pictures")
    parser.add_argument("--pairs", type=int, default=6, help="cold starts of each")
    parser.add_argument("--calls", type=int, default=7, help="warm pictures of a process")
    return parser


if __name__ == "__main__":
    sys.exit(main())
