"""What ``kind: reward`` takes of a device's memory, from settings and file headers alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from frolic.accel.memory import free_bytes
from frolic.adapters import target
from frolic.config import Recipe
from frolic.io.safetensors import read_headers
from frolic.lora.experts import EXPERTS
from frolic.lora.trained import chosen
from frolic.plan import BuildPlan, Part, make_plan
from frolic.plan.find import Watch
from frolic.rewards.spec import parse_rewards
from frolic.sampling.few import FEW
from frolic.train.device import resolve_device
from frolic.train.memory_plan import MemoryPlan, Moment, kept_bytes
from frolic.train.tasks.base import Base
from frolic.train.tasks.reward_settings import Data, Settings

_COPIES = 5  # of what is trained, in float32: itself, its gradient, two of the optimizer's, its average
_STATE = 4  # bytes of a number that goes from block to block


def reward_memory(recipe: Recipe, fetch: bool = True) -> MemoryPlan:
    """Of the device that ``recipe`` would run on. What the rewards compute is not counted, only their weights. Without
    ``fetch``, a model that is not on this machine is not brought there.

    Raises:
        As ``make_plan`` and ``parse_rewards``.
    """
    settings, data = recipe.section("job", Settings), recipe.section("data", Data)
    device = resolve_device(recipe.trainer.device)
    model = recipe.section("model", Base)
    plan = make_plan(model.base, dtype=model.dtype, device=str(device), memory="full", watch=Watch(fetch=fetch))
    net, vae = plan.parts["transformer"], plan.parts["vae"]
    height, width = data.height or plan.defaults.height, data.width or plan.defaults.width
    grid = (height // vae.config.stride, width // vae.config.stride)
    clip = plan.defaults.frames > 1
    count = 1 + ((data.frames or plan.defaults.frames) - 1) // plan.defaults.frame_stride if clip else 1
    tokens = count * math.prod(grid) // net.config.patch_size**2
    samples = max(1, recipe.trainer.batch_size // recipe.trainer.accumulation)
    trained = [name for name in EXPERTS if name in plan.parts and settings.train in ("both", EXPERTS[name])]
    rewards = sum(_weights(spelled.spec.options) for spelled in parse_rewards([*settings.rewards, *settings.held_out]))
    if settings.agreement is not None:
        rewards += _weights({"weights": settings.agreement.weights})
    adapters = len(trained) * _adapter(net, settings) * _COPIES * 4
    always = {"autoencoder": vae.bytes, "rewards": rewards, "adapters": adapters}
    seen = count if settings.gradient.window.latents is None else min(settings.gradient.window.latents, count)
    text = plan.parts["text_encoder"].bytes
    # Elsewhere than on the CPU, parts come when they are needed.
    texts = {"all weights": plan.weight_bytes()} if device.type == "cpu" else {"text encoder": text}
    kept = _forwards(plan, settings, len(trained)) * samples * _graph(net, tokens, settings.recompute)
    return MemoryPlan(
        str(device),
        (
            Moment("reading texts", {**texts, "rewards": rewards}),
            Moment(
                "drawing",
                {
                    "transformer": net.bytes,
                    **always,
                    "at work": samples * net.config.working_bytes(tokens, net.dtype.itemsize),
                },
            ),
            Moment(
                "decoding",
                {
                    "transformer": net.bytes,
                    **always,
                    "graph": samples * _decoding(vae, grid, count, seen, clip, settings.recompute),
                },
            ),
            Moment("learning", {"transformer": len(trained) * net.bytes, **always, "graph": kept}),
        ),
        free_bytes(device),
    )


def _weights(options: Any) -> int:
    """What a reward's own weights take in float32; those that ship are small."""
    path = Path(str(options.get("weights", ""))).expanduser()
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors")) if options.get("weights") else []
    entries = [entry for file in files if file.suffix == ".safetensors" for entry in read_headers(file).values()]
    return 4 * sum(math.prod(entry.shape) for entry in entries)


def _adapter(part: Part, settings: Settings) -> int:
    """How many numbers the factors of one transformer have."""
    shapes = chosen(target(part.spec, part.config).shapes, list(settings.targets))
    return sum(settings.rank * (rows + columns) for rows, columns in shapes.values())


def _forwards(plan: BuildPlan, settings: Settings, experts: int) -> int:
    """How many forwards of a sample are kept together: of each chosen step, with and without its text."""
    scale = plan.defaults.guidance_scale if settings.guidance_scale is None else settings.guidance_scale
    branches = 2 if scale > 1 and plan.defaults.sampler != FEW else 1
    if settings.method == "nft":
        return 1
    choice = settings.gradient.choice
    steps = len(set(choice.steps)) if choice.choose == "list" else experts * choice.count
    return branches * max(1, steps)


def _graph(part: Part, tokens: int, recompute: bool) -> int:
    """What is kept of one forward: of every block what it computed, or what went in, and for one all of it again."""
    config = part.config
    block: int = config.graph_bytes(tokens, part.dtype.itemsize)
    return config.layers * tokens * config.width * _STATE + block if recompute else config.layers * block


def _decoding(part: Part, grid: tuple[int, int], count: int, seen: int, clip: bool, recompute: bool) -> int:
    """What is kept of decoding one sample, by doing so without numbers. Of a clip, ``seen`` latents are."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # not the meta device, which has no autocast to turn off

    with FakeTensorMode():
        vae: Any = part.spec.build(part.config).requires_grad_(False)
        z = torch.empty(1, part.config.latent_channels, *((count,) if clip else ()), *grid, requires_grad=True)
        vae.recompute = recompute
        kept = kept_bytes(lambda: vae.decode_window(z, count - seen, count) if clip else vae.decode(z))
    return kept * part.dtype.itemsize // torch.float32.itemsize
