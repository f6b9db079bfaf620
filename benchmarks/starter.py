"""frolic against diffusers on the same weights: ``python benchmarks/starter.py --json benchmarks/results/NAME.json``.

Both draw in fresh processes, in turns, within one run: cold start (process start to PNG on disk), a warm picture, peak
memory. float32, the same number of threads, steps, guidance, tokens and seed. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from processes import Run, frolic_command, machine, run, shipped
from turns import ratio, turns

HERE = Path(__file__).parent
NAMES = ("frolic", "diffusers")
PROMPT = "a red panda"


def main() -> int:
    options = _parser().parse_args()
    model = Path(options.model or shipped("model"))
    if not (model / "model_index.json").is_file():
        print(f"{model} is not a model folder in diffusers' layout; give one with --model.", file=sys.stderr)
        return 2
    try:
        report = measure(model, options)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for line in told(report):
        print(line)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def measure(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every sample, and the ratios between them (diffusers over frolic: above 1 is better for frolic)."""
    chosen = settings(model, options.steps, options.device)
    report: dict[str, Any] = {"machine": machine(options.threads), "settings": {"prompt": PROMPT, **chosen}}
    with tempfile.TemporaryDirectory() as folder:
        pictures = {name: Path(folder) / f"{name}.png" for name in NAMES}
        commands = {
            "frolic": _frolic(model, chosen, pictures["frolic"]),
            "diffusers": [
                *(sys.executable, str(HERE / "diffusers_once.py")),
                *(str(model), json.dumps(chosen), PROMPT, str(pictures["diffusers"])),
            ],
        }
        for name in NAMES:  # byte code is compiled and files come into the page cache, for both alike
            run(commands[name], options.threads)
        cold: dict[str, list[Run]] = {name: [] for name in NAMES}
        for name in turns(NAMES, options.pairs):
            pictures[name].unlink()
            cold[name].append(run(commands[name], options.threads))
            assert pictures[name].is_file()
        warm: dict[str, list[float]] = {name: [] for name in NAMES}
        held: dict[str, list[float]] = {name: [] for name in NAMES}
        for name in turns(NAMES, options.warm_pairs):
            command = [sys.executable, str(HERE / "warm.py"), name, str(model), json.dumps(chosen), str(options.calls)]
            done = run(command, options.threads)
            warm[name].append(median(json.loads(done.output)))
            held[name].append(done.megabytes)
        report["psnr_db"] = psnr(*pictures.values())
    samples = {
        "cold_seconds": {name: [r.seconds for r in runs] for name, runs in cold.items()},
        "warm_seconds": warm,
        "cold_peak_mb": {name: [r.megabytes for r in runs] for name, runs in cold.items()},
        "warm_peak_mb": held,
    }
    report["ratios"] = {what: ratio(v["diffusers"], v["frolic"]) for what, v in samples.items()}
    report["medians"] = {what: {n: round(median(v), 4) for n, v in values.items()} for what, values in samples.items()}
    report["samples"] = {what: {n: [round(x, 4) for x in v] for n, v in vs.items()} for what, vs in samples.items()}
    return report


def settings(model: Path, steps: int, device: str) -> dict[str, Any]:
    """What is asked for: the folder's own defaults, or the starter's where it has none."""
    own = model / "frolic.json"
    said = json.loads(own.read_text("utf-8")) if own.is_file() else {}
    return {
        "steps": steps,
        "guidance_scale": float(said.get("guidance_scale", 4.5)),
        "height": int(said.get("height", 128)),
        "width": int(said.get("width", 128)),
        "max_tokens": int(said.get("max_tokens", 300)),
        "seed": 7,
        "device": device,
    }


def psnr(ours: Path, theirs: Path) -> float | None:
    """Of the two pictures over 255, in decibels; None where they are equal. The work that was timed was the same."""
    from PIL import Image

    with Image.open(ours) as first, Image.open(theirs) as second:
        if first.size != second.size:
            raise RuntimeError(f"the pictures differ in size: {first.size} and {second.size}")
        a, b = first.convert("RGB").tobytes(), second.convert("RGB").tobytes()
    error = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)
    return round(10 * math.log10(255**2 / error), 2) if error else None


def told(report: dict[str, Any]) -> Iterator[str]:
    """The report for people."""
    labels = {
        "cold_seconds": ("cold start to file", "s", "faster"),
        "warm_seconds": ("warm picture", "s", "faster"),
        "cold_peak_mb": ("peak memory, cold", "MB", "less"),
        "warm_peak_mb": ("peak memory, warm", "MB", "less"),
    }
    for what, (label, unit, better) in labels.items():
        medians, found = report["medians"][what], report["ratios"][what]
        digits = 0 if unit == "MB" else 3
        ours, theirs = (f"{medians[name]:.{digits}f} {unit}" for name in NAMES)
        spread = f"{found['min']:.2f} to {found['max']:.2f}"
        yield f"{label:<20} frolic {ours:>9}   diffusers {theirs:>9}   {found['median']:.2f}x {better} ({spread})"
    likeness = "equal" if report["psnr_db"] is None else f"PSNR {report['psnr_db']:.0f} dB"
    yield f"same picture: {likeness}; {report['machine']['processor']}, {report['machine']['threads']} threads"


def _frolic(model: Path, chosen: dict[str, Any], png: Path) -> list[str]:
    return [
        *frolic_command(),
        *(PROMPT, "-m", str(model), "-o", str(png), "-s", str(chosen["seed"]), "--steps", str(chosen["steps"])),
        *("--cfg", str(chosen["guidance_scale"]), "--dtype", "float32", "--device", chosen["device"]),
        *("--size", f"{chosen['width']}x{chosen['height']}"),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a folder in diffusers' layout [the starter]")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu", help="for both [cpu]")
    parser.add_argument("--threads", type=int, default=_cores(), help="for both [all cores]")
    parser.add_argument("--pairs", type=int, default=7, help="cold starts of each [7]")
    parser.add_argument("--warm-pairs", type=int, default=5, help="warm processes of each [5]")
    parser.add_argument("--calls", type=int, default=9, help="timed pictures in a warm process [9]")
    parser.add_argument("--json", type=Path, metavar="OUT", help="keep everything that was measured")
    return parser


def _cores() -> int:
    return int(machine(0)["cores"])


if __name__ == "__main__":
    sys.exit(main())
