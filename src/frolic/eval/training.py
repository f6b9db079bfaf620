"""The loop that trains a judge's net: step k depends on the recipe and k alone, so a run may stop and go on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from frolic.accel.arithmetic import has_bfloat16
from frolic.errors import FileError, RequestError
from frolic.eval.stored import as_stored
from frolic.nn.orthogonal import orthogonalise

_ITERATIONS = 4


@dataclass(frozen=True)
class Recipe:
    """How long a net is trained, and with what: ``rate`` is AdamW's, ``turning`` that of ``Orthogonal``."""

    steps: int
    batch: int
    rate: float
    turning: float = 0.08
    weight_decay: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2:
            raise RequestError("Give the judge at least one step and a batch of two.")


@dataclass(frozen=True)
class Progress:
    part: str
    step: int
    steps: int
    loss: float


Tell = Callable[[Progress], None]
Optimizers = Sequence[torch.optim.Optimizer]


def rate(recipe: Recipe, step: int) -> float:
    """What the rates are multiplied by: a short warm-up, then half a cosine to a hundredth."""
    warm = max(1, recipe.steps // 20)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, recipe.steps - warm)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


class Orthogonal(torch.optim.Optimizer):
    """Momentum whose matrices are made nearly orthogonal before they are applied (K. Jordan et al., "Muon", 2024), for
    convolutions that a norm follows: each is kept at the length of a matrix with rows of length 1."""

    def __init__(self, params: Iterable[nn.Parameter], momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": 0.0})
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                kept = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                kept.mul_(self.momentum).add_(weight.grad)
                # bfloat16 is enough where a processor multiplies in it; elsewhere it would take ten times as long.
                exact = torch.bfloat16 if has_bfloat16(weight.device) else torch.float32
                step = (weight.grad + self.momentum * kept).flatten(1)[None]
                turned = orthogonalise(step, _ITERATIONS, exact).view_as(weight)
                weight.mul_(len(weight) ** 0.5 / weight.norm()).sub_(turned, alpha=group["lr"])


def step_generator(recipe: Recipe, step: int) -> torch.Generator:
    """All randomness of one step."""
    return torch.Generator().manual_seed((recipe.seed << 32) + 7_000_003 * step + 1)


def build(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A net whose first weights depend on ``seed``; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fit(
    net: nn.Module,
    loss_at: Callable[[int], Tensor],
    recipe: Recipe,
    part: str,
    state: Path | None = None,
    seconds: float | None = None,
    tell: Tell | None = None,
) -> bool:
    """Train ``net`` and leave it rounded to bf16, ready to be measured; whether it came to the end.

    With ``state`` it goes on from that file where there is one, and leaves it there when ``seconds`` are over. Whoever
    has kept the net removes the file.
    """
    turned = [weight for weight in net.parameters() if weight.ndim == 4 and weight.shape[1] > 3 and weight.shape[2] > 1]
    others = [weight for weight in net.parameters() if all(weight is not other for other in turned)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=recipe.rate, weight_decay=recipe.weight_decay)
    ]
    if turned:
        optimizers.append(Orthogonal(turned))
    start = _restore(state, net, optimizers, recipe) if state is not None and state.exists() else 0
    began = time.monotonic()
    net.train()
    for step in range(start, recipe.steps):
        for optimizer, most in zip(optimizers, (recipe.rate, recipe.turning), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = most * rate(recipe, step)
        net.zero_grad(set_to_none=True)
        loss = loss_at(step)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if tell is not None:
            tell(Progress(part, step + 1, recipe.steps, loss.item()))
        if seconds is not None and time.monotonic() - began > seconds and step + 1 < recipe.steps:
            assert state is not None
            _keep(state, net, optimizers, recipe, step + 1)
            return False
    as_stored(net)
    net.eval().requires_grad_(False)
    return True


def _keep(path: Path, net: nn.Module, optimizers: Optimizers, recipe: Recipe, step: int) -> None:
    tensors = {f"net.{name}": value.contiguous() for name, value in net.state_dict().items()}
    for which, optimizer in enumerate(optimizers):
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{which}.{index}.{name}": value.contiguous() for name, value in slots.items()}
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, part, {"step": str(step), "recipe": json.dumps(asdict(recipe))})
    part.replace(path)


def _restore(path: Path, net: nn.Module, optimizers: Optimizers, recipe: Recipe) -> int:
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        if json.loads(facts["recipe"]) != asdict(recipe):
            raise FileError(f"Remove {path} to begin again: it is of a training with other settings.")
        net.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("net.")})
        for which, optimizer in enumerate(optimizers):
            slots: dict[int, dict[str, Any]] = {}
            for name, value in tensors.items():
                if name.startswith(f"optimizer.{which}."):
                    _, _, index, slot = name.split(".")
                    slots.setdefault(int(index), {})[slot] = value
            optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(facts["step"])
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise FileError(f"Remove {path} to begin again: it cannot be read ({error}).") from error
