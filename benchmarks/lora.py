"""What adapters cost, against diffusers with PEFT: ``python benchmarks/lora.py --out benchmarks/results/NAME.json``.

One guided step (a batch of two) of the starter's transformer and of a 600M one, on random weights that both load, with
0, 1, 2 and 4 adapters of rank 16 on every attention and feed-forward layer. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from processes import machine
from sana import TRANSFORMER, filled, loaded
from torch import Tensor
from turns import timed

from frolic.adapters import read, target
from frolic.lora.layer import Attached

COUNTS = (0, 1, 2, 4)
RANK = 16
Step = Callable[[], Tensor]


def main() -> int:
    options = _parser().parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"machine": machine(options.threads), "settings": {"rank": RANK, "batch": 2}, "models": {}}
    for name in options.models.split(","):
        found = report["models"][name] = measure(name, options)
        for count in COUNTS[1:]:
            parts = {who: found["overhead"][who][str(count)] for who in ("frolic", "diffusers")}
            share = parts["frolic"] / parts["diffusers"]
            print(
                f"{name} with {count}: frolic {parts['frolic']:+.1%}, PEFT {parts['diffusers']:+.1%}, {share:.2f} of "
                f"it; error {found['error_of_range'][str(count)]:.1e} of the range",
                flush=True,
            )
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step with each number of adapters, in turns, and what they add to a step without."""
    config, side, tokens = shape_of(name)
    steps, attach, attach_theirs = build(config, side, tokens, options)
    seconds: dict[str, dict[str, list[float]]] = {who: {} for who in steps}
    errors = {}
    for count in COUNTS:
        attach(count)
        attach_theirs(count)
        results = {who: step() for who, step in steps.items()}  # also warms up
        ours, theirs = results["frolic"], results["diffusers"]
        errors[str(count)] = ((ours - theirs).abs().max() / (theirs.max() - theirs.min())).item()
        for who, values in timed(steps, options.repeats, calls=options.calls, digits=5).items():
            seconds[who][str(count)] = values
    overhead = {
        who: {
            count: round(median(values) / median(by_count["0"]) - 1, 4)
            for count, values in by_count.items()
            if count != "0"
        }
        for who, by_count in seconds.items()
    }
    return {"overhead": overhead, "seconds": seconds, "error_of_range": errors}


def shape_of(name: str) -> tuple[Mapping[str, Any], int, int]:
    """The transformer's config, the side of its latents, and tokens of text."""
    if name == "600M":
        return TRANSFORMER, 16, 40
    from frolic.config import load_recipe
    from frolic.train.jobs import built_in

    return load_recipe("starter/image", [], None, built_in()).model["config"], 8, 24


def build(
    published: Mapping[str, Any], side: int, tokens: int, options: argparse.Namespace
) -> tuple[dict[str, Step], Callable[[int], None], Callable[[int], None]]:
    import diffusers

    from frolic.models.sana import SanaConfig, SanaTransformer
    from frolic.models.sana.spec import SANA

    component = SANA.components["transformer"]
    config = SanaConfig.from_json(dict(published))
    state = filled(lambda: SanaTransformer(config))
    ours = loaded(lambda: SanaTransformer(config), state, torch.float32, options)
    their_state = component.keymap(config).save(state)
    theirs = loaded(lambda: diffusers.SanaTransformer2DModel(**published), their_state, torch.float32, options)
    goal = target(component, config, ours)
    layers = [name for name in goal.shapes if name.startswith("blocks.")]
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x, t = noise(2, config.in_channels, side, side), torch.tensor([500.0, 500.0])
    text, mask = noise(2, tokens, config.caption_channels), torch.ones(2, tokens, dtype=torch.bool)
    files: list[Path] = []
    folder = TemporaryDirectory()

    def file(number: int) -> Path:
        """An adapter on every layer of the blocks, in diffusers' naming."""
        from frolic.adapters import write
        from frolic.lora.adapter import Adapter
        from frolic.lora.delta import Delta

        while len(files) <= number:
            deltas = {}
            for layer in layers:
                rows, columns = goal.shapes[layer]
                deltas[layer] = Delta(noise(RANK, columns) / columns**0.5, 0.01 * noise(rows, RANK))
            files.append(Path(folder.name) / f"{len(files)}.safetensors")
            write(Adapter(deltas), files[-1], goal, "diffusers", dtype=torch.float32)
        return files[number]

    attached: list[Attached] = []

    def attach(count: int) -> None:
        while attached:
            attached.pop().remove()
        if count:
            adapters = {str(number): read(file(number), goal) for number in range(count)}
            attached.append(Attached(ours, adapters))
            attached[0].use(dict.fromkeys(adapters, 0.5))
        steps["frolic"] = step_of(ours.context(text, mask))

    def attach_theirs(count: int) -> None:
        for number in range(count):
            if str(number) not in getattr(theirs, "peft_config", {}):
                theirs.load_lora_adapter(folder.name, weight_name=file(number).name, adapter_name=str(number))
        if count:
            theirs.set_adapters([str(number) for number in range(count)], [0.5] * count)

    def step_of(context: Any) -> Step:
        return lambda: ours.denoise(x, t, context)

    def their_step() -> Tensor:
        out: Tensor = theirs(x, text, t, encoder_attention_mask=mask.long(), return_dict=False)[0]
        return out

    steps: dict[str, Step] = {"frolic": step_of(ours.context(text, mask)), "diffusers": their_step}
    return steps, attach, attach_theirs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="starter,600M", help="one or both, with a comma [starter,600M]")
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for both [all cores]")
    parser.add_argument("--repeats", type=int, default=7, help="timed turns of each [7]")
    parser.add_argument("--calls", type=int, default=3, help="steps in a turn [3]")
    parser.add_argument("--out", type=Path, help="keep everything that was measured")
    return parser


if __name__ == "__main__":
    sys.exit(main())
