"""Memory of one update of reward training: ``python benchmarks/reward.py --out benchmarks/results/NAME.json``.

A small two-expert Wan with random weights and its autoencoder; the reward is the clips' motion. ``two_phase`` is what
frolic trains with; ``full_graph`` keeps the graph of the whole drawing; ``detached``, as VideoX-Fun's scripts do, lets
go of the steps that are not trained, but holds those that are together with the decoder's graph. The gradient is the
same (in a test they agree to 1e-12). Each is a process of its own, of which the peak above the loaded models is told.
See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path
from typing import Any

from processes import machine, run

WAYS = ("two_phase", "detached", "full_graph")
STEPS = (5, 10, 20, 40)
WIDTH, LAYERS, FRAMES, SIDE = 192, 6, 17, 96


def main() -> int:
    options = _parser().parse_args()
    if options.way is not None:
        print(json.dumps({"bytes": once(options.way, options.steps)}))
        return 0
    found: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    for steps in options.counts:
        for way in WAYS:
            done = run([sys.executable, __file__, "--way", way, "--steps", str(steps)], options.threads)
            found[way][str(steps)] = round(json.loads(done.output.splitlines()[-1])["bytes"] / 2**20, 1)
            print(way, steps, found[way][str(steps)], "MiB", flush=True)
    most = str(max(options.counts))
    report: dict[str, Any] = {
        "machine": machine(options.threads),
        "settings": {"width": WIDTH, "layers": LAYERS, "frames": FRAMES, "side": SIDE, "batch": 2, "trained_steps": 2},
        "peak_MiB": found,
        **{
            f"two_phase_of_{way}": {
                steps: round(found["two_phase"][steps] / found[way][steps], 3) for steps in found["two_phase"]
            }
            for way in WAYS[1:]
        },
        "two_phase_most_over_fewest_steps": round(
            found["two_phase"][most] / found["two_phase"][str(min(options.counts))], 3
        ),
    }
    print(json.dumps({key: value for key, value in report.items() if key != "machine"}, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def once(way: str, steps: int) -> int:
    """How far one update's peak lies above what was in memory before."""
    import torch

    from frolic.lora.trained import Factors, Learning
    from frolic.models.wan import WanConfig, WanTransformer
    from frolic.models.wan_vae import WanVAE, WanVAEConfig
    from frolic.pipeline.parts import Resident
    from frolic.rewards.motion import Lively
    from frolic.sampling.solvers import SAMPLERS
    from frolic.train.objectives.reward import Goal, RewardGradient
    from frolic.train.objectives.steps import StepChoice, StepSettings
    from frolic.train.painter import ModelPainter

    torch.manual_seed(0)
    config = WanConfig(
        heads=3, head_dim=WIDTH // 3, in_channels=48, out_channels=48, patch=(1, 1, 1), text_dim=192, freq_dim=128,
        hidden=2 * WIDTH, layers=LAYERS,
    )  # fmt: skip
    vae = WanVAE(
        WanVAEConfig(
            width=12, decoder_width=16, latent_channels=48, layers=1, in_time=(False, True, True), mean=(0.0,) * 48,
            deviation=(1.0,) * 48, shortcuts=True, patch=2,
        )
    )  # fmt: skip
    vae.requires_grad_(False)
    nets = {name: WanTransformer(config).requires_grad_(False) for name in ("transformer", "transformer_2")}
    modules = {name: dict(net.named_modules()) for name, net in nets.items()}
    shapes = {
        name: (module.weight.shape[0], module.weight.shape[1])
        for name, module in modules["transformer"].items()
        if name.startswith("blocks.") and isinstance(module, torch.nn.Linear)
    }
    generator = torch.Generator().manual_seed(0)
    factors = {name: Factors(shapes, 8, 8.0, generator) for name in nets}
    learning = {name: Learning(net, factors[name]) for name, net in nets.items()}
    sampler = SAMPLERS["unipc"]
    schedule = sampler.schedule("diffusers")
    shape = (48, vae.latent_frames(FRAMES), SIDE // 16, SIDE // 16)

    def decode(latents: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return (vae.decode_window(latents, 1, 3) / 2 + 0.5).clamp(0, 1).transpose(1, 2)

    null = torch.zeros(1, 1, 192), torch.ones(1, 1, dtype=torch.bool)
    painter = ModelPainter(
        {name: Resident(net) for name, net in nets.items()}, learning, null, [5.0, 5.0], sampler, schedule,
        schedule.sigmas(steps, 3.0), shape, decode, 0.875,
    )  # fmt: skip
    choice = StepChoice.of(StepSettings(choose="last"), painter.expert_steps())
    objective = RewardGradient(factors, painter, [Goal(Lively(), 1.0, 0.01)], choice, ["a", "b"], shape)
    batch = {
        "prompt": torch.tensor([0, 1]), "text": torch.randn(2, 16, 192), "mask": torch.ones(2, 16, dtype=torch.bool),
    }  # fmt: skip
    before = _peak()
    if way == "two_phase":
        loss, _ = objective.loss(batch, generator)
    else:
        loss = _whole(painter, objective, batch, choice.pick(generator), generator, way == "full_graph")
    loss.backward()
    return _peak() - before


def _whole(painter: Any, objective: Any, batch: Any, chosen: Any, generator: Any, keep: bool) -> Any:
    """The loss with one graph. The velocities of steps that are not trained are cut off after they were computed; their
    graphs go at once, or with ``keep`` at the end."""
    import torch

    denoise, asked = painter.denoiser(batch["text"], batch["mask"]), 0

    def held(x: Any, sigma: Any) -> Any:
        nonlocal asked
        taken = asked in chosen
        asked += 1
        velocity = (x.detach() - denoise(x.detach(), sigma)) / sigma
        return x - sigma * (velocity if taken else _cut(velocity) if keep else velocity.detach())

    x = torch.randn(2, *painter.shape, generator=generator)
    for step in painter.sampler.solve(held, x, painter.sigmas):
        x = step.x
    score = objective.goals[0].reward.score(painter.decode(x, generator), objective.prompts)
    return -(score / objective.goals[0].deviation).mean()


def _cut(velocity: Any) -> Any:
    """The same values, whose gradient is zero, and whose graph lives as long as the loss: a drawing that is
    differentiated as a whole keeps every step's."""
    return velocity * 0.0 + velocity.detach()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--counts", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--steps", type=int, default=20)
    return parser


if __name__ == "__main__":
    sys.exit(main())
