"""Training the starter's transformer on a CPU: ``python benchmarks/training.py --out benchmarks/results/NAME.json``.

Three ways from the same weights and batch: frolic's fused blocks with a core to each part of the batch, frolic's plain
blocks, and diffusers' model, both with all cores on one part after the other; all in bfloat16 by autocast, or in
float32 where the processor has no bfloat16. What is timed is the loss and all gradients of one update, without the
optimizer, in turns. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from processes import machine
from torch import Tensor, nn
from turns import ratio, timed

NAMES = ("frolic", "plain", "diffusers")
TOKENS, TEXT = 24, 192
Step = Callable[[], float]


def main() -> int:
    options = _parser().parse_args()
    from frolic.accel.arithmetic import has_bfloat16
    from frolic.train.memory import keep_freed_memory

    keep_freed_memory()  # for all three: it is the process's
    torch.set_num_threads(options.threads)
    steps = build(options)
    losses = {name: step() for name, step in steps.items()}  # also warms up
    seconds = timed(steps, options.repeats)
    report: dict[str, Any] = {
        "machine": machine(options.threads),
        "settings": {
            "batch": options.batch,
            "passes": options.passes,
            "image_tokens": 64,
            "text_tokens": TOKENS,
            "precision": "bf16" if has_bfloat16(torch.device("cpu")) else "fp32",
        },
        "samples_per_second": {name: round(options.batch / median(values), 1) for name, values in seconds.items()},
        "faster_than": {name: ratio(seconds[name], seconds["frolic"]) for name in NAMES[1:]},
        "seconds": seconds,
        "loss": losses,
    }
    print(json.dumps({key: report[key] for key in ("samples_per_second", "faster_than", "loss")}, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def build(options: argparse.Namespace) -> dict[str, Step]:
    import diffusers

    from frolic.accel.arithmetic import has_bfloat16
    from frolic.config import load_recipe
    from frolic.models.sana import SanaConfig, SanaTransformer, diffusers_keys
    from frolic.models.sana.fused import fuse
    from frolic.train.jobs import built_in
    from frolic.train.passes import Passes

    published = load_recipe("starter/image", [], None, built_in()).model["config"]
    config = SanaConfig.from_json(published)
    torch.manual_seed(0)
    plain = SanaTransformer(config)
    fused = copy.deepcopy(plain)
    if not fuse(fused):
        sys.exit("No C++ compiler was found: there are no fused blocks to time.")
    theirs: Any = diffusers.SanaTransformer2DModel(**published)
    theirs.load_state_dict(diffusers_keys(config).save(plain.state_dict()))
    size = options.batch // options.passes
    half = has_bfloat16(torch.device("cpu"))
    parts = [batch(size, config.in_channels, seed) for seed in range(options.passes)]

    def updates(net: nn.Module, call: Callable[..., Tensor], workers: int) -> Step:
        runner = Passes(list(net.train().parameters()), workers)

        def loss(index: int) -> tuple[Tensor, dict[str, Tensor]]:
            x, t, text, mask = parts[index]
            with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=workers == 1):
                return (call(x, t, text, mask).float() - x).square().mean(), {}

        def step() -> float:
            net.zero_grad()
            done = runner.run(loss, options.passes)
            return float(sum(value for value, _ in done)) / options.passes

        return step

    def their_call(x: Tensor, t: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = theirs(x, text, t, encoder_attention_mask=mask.long(), return_dict=False)[0]
        return out

    return {
        "frolic": updates(fused, fused, options.threads),
        "plain": updates(plain, plain, 1),
        "diffusers": updates(theirs, their_call, 1),
    }


def batch(size: int, channels: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, channels, 8, 8, generator=generator)
    t = 1000 * torch.rand(size, generator=generator)
    lengths = torch.randint(3, 12, (size, 1), generator=generator)
    return x, t, torch.randn(size, TOKENS, TEXT, generator=generator), torch.arange(TOKENS)[None] < lengths


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch", type=int, default=128, help="samples of an update")
    parser.add_argument("--passes", type=int, default=4, help="parts that it is computed in; a multiple of the threads")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
