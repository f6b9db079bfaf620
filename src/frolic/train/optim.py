"""From a recipe's optimizer section to optimizers over named parameters, with a state that is only tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from frolic.config import GroupRule, OptimizerSection, ScheduleSection
from frolic.errors import CheckpointError, ConfigError, nearest
from frolic.train.device import in_bfloat16
from frolic.train.muon import Muon

_SLOT = "//"


@dataclass(frozen=True)
class Setting:
    """How one parameter is updated."""

    optimizer: str
    lr_scale: float
    weight_decay: float
    split: int


def assign(shapes: Mapping[str, torch.Size], section: OptimizerSection) -> dict[str, Setting]:
    """The setting of every parameter: the first rule that matches its name and dimensions.

    Raises:
        ConfigError: listing patterns that match no parameter, and parameters that Muon cannot take.
    """
    wrong = [
        f"optimizer.groups.{index}: no parameter matches {pattern!r}{nearest(pattern, shapes)}"
        for index, rule in enumerate(section.groups)
        for pattern in rule.match
        if not any(fnmatchcase(name, pattern) for name in shapes)
    ]
    settings: dict[str, Setting] = {}
    for name, shape in shapes.items():
        rule = next((rule for rule in section.groups if _applies(rule, name, shape)), GroupRule())
        kind = rule.optimizer or ("muon" if section.kind == "muon" and len(shape) == 2 else "adamw")
        decay = section.weight_decay if rule.weight_decay is None else rule.weight_decay
        if kind == "muon" and (len(shape) < 2 or shape[0] % rule.split):
            wrong.append(f"{name} of shape {list(shape)} cannot be {rule.split} matrices for muon")
        settings[name] = Setting(kind, rule.lr_scale, decay, rule.split if kind == "muon" else 1)
    if wrong:
        raise ConfigError("The optimizer's groups do not fit the model; correct this first:\n  " + "\n  ".join(wrong))
    return settings


def _applies(rule: GroupRule, name: str, shape: torch.Size) -> bool:
    if rule.max_ndim is not None and len(shape) > rule.max_ndim:
        return False
    return not rule.match or any(fnmatchcase(name, pattern) for pattern in rule.match)


def lr_factor(step: int, steps: int, schedule: ScheduleSection) -> float:
    """The factor of the learning rate for update ``step`` (from 0) of ``steps``."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    begin = max(schedule.warmup, int(schedule.decay_from * steps))
    if schedule.kind == "constant" or step < begin:
        return 1.0
    done = min(1.0, (step - begin) / max(1, steps - begin))
    left = 1 - done if schedule.kind == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return schedule.floor + (1 - schedule.floor) * left


class Optimizers:
    """AdamW and Muon over disjoint sets of named parameters, stepped together."""

    def __init__(self, params: Mapping[str, nn.Parameter], section: OptimizerSection) -> None:
        """``params``: name to parameter, each parameter once."""
        assert len({id(param) for param in params.values()}) == len(params), "a parameter is listed twice"
        self._params = dict(params)
        groups: dict[Setting, list[nn.Parameter]] = {}
        for name, setting in assign({name: param.shape for name, param in params.items()}, section).items():
            groups.setdefault(setting, []).append(params[name])
        self._optimizers: list[torch.optim.Optimizer] = []
        for kind in ("adamw", "muon"):
            scale = section.lr * (section.muon.lr_scale if kind == "muon" else 1.0)
            chosen = [
                {
                    "params": members,
                    "base_lr": scale * setting.lr_scale,
                    "weight_decay": setting.weight_decay,
                    **({"split": setting.split} if kind == "muon" else {}),
                }
                for setting, members in groups.items()
                if setting.optimizer == kind
            ]
            if chosen:
                self._optimizers.append(_make(kind, chosen, section, next(iter(params.values())).device))

    def step(self, factor: float) -> None:
        """One update at ``factor`` times each group's learning rate."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.step()

    def zero_grad(self) -> None:
        for param in self._params.values():
            param.grad = None

    def state(self) -> dict[str, Tensor]:
        """All state, as ``parameter//slot`` to tensor."""
        found: dict[str, Tensor] = {}
        for name, param in self._params.items():
            for optimizer in self._optimizers:
                for slot, value in optimizer.state.get(param, {}).items():
                    found[f"{name}{_SLOT}{slot}"] = value
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Undo of ``state``.

        Raises:
            CheckpointError: listing state of parameters that are not here.
        """
        owner = {id(p): o for o in self._optimizers for group in o.param_groups for p in group["params"]}
        foreign = sorted({key.partition(_SLOT)[0] for key in state} - set(self._params))
        if foreign:
            raise CheckpointError(f"The optimizer's state is of another model; it has: {', '.join(foreign[:8])}.")
        misfits = sorted(
            {
                name
                for name, _, slot in (key.partition(_SLOT) for key in state)
                if (slot == "momentum") != isinstance(owner[id(self._params[name])], Muon)
            }
        )
        if misfits:
            raise CheckpointError(
                f"The checkpoint's optimizer is another one for {len(misfits)} parameters ({', '.join(misfits[:4])}, "
                "...); undo the change of optimizer, or start from the weights alone with trainer.init_from."
            )
        for key, value in state.items():
            name, _, slot = key.partition(_SLOT)
            param = self._params[name]
            # A slot shaped as its parameter takes its memory format too, so that a resumed run computes the same bits.
            kept = (
                torch.empty_like(param) if value.shape == param.shape else torch.empty_like(value, device=param.device)
            )
            owner[id(param)].state[param][slot] = kept.detach().copy_(value)


def _make(
    kind: str, groups: list[dict[str, object]], section: OptimizerSection, device: torch.device
) -> torch.optim.Optimizer:
    if kind == "adamw":
        betas = (section.betas[0], section.betas[1])
        return torch.optim.AdamW(groups, lr=section.lr, betas=betas, eps=section.eps, fused=True)
    muon = section.muon
    return Muon(
        groups,
        lr=section.lr,
        momentum=muon.momentum,
        nesterov=muon.nesterov,
        iterations=muon.iterations,
        dtype=torch.bfloat16 if in_bfloat16(muon.precision, device) else torch.float32,
    )
