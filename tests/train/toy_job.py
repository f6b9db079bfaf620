"""A toy task: a small network learns a fixed function of its inputs. Fast, and random in data and in loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from frolic.config import OptimizerSection, OutputSection, Recipe, ScheduleSection, TrainerSection
from frolic.config.recipe import JobSection
from frolic.train.jobs import Job
from frolic.train.objectives.base import Batch


class Net(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inner = nn.Linear(4, width)
        self.hidden = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.outer = nn.Linear(width, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.norm(torch.relu(self.hidden(torch.relu(self.inner(x))))))


class ToySource:
    def batch(self, step: int, size: int, generator: torch.Generator) -> Batch:
        x = torch.randn(size, 4, generator=generator)
        return {"x": x, "y": torch.stack([x[:, 0] * x[:, 1], x[:, 2] - x[:, 3]], dim=1)}


class ToyObjective:
    def __init__(self, width: int = 8, noise: float = 0.1, nan_from: int | None = None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.net = Net(width)
        self.noise, self.nan_from, self.calls = noise, nan_from, 0

    def modules(self) -> Mapping[str, nn.Module]:
        return {"net": self.net}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch["x"] + self.noise * torch.randn(batch["x"].shape, generator=generator).to(batch["x"])
        if self.noise:
            x = x + 0.01 * torch.rand(())  # drawn from the global generator, whose state a checkpoint keeps too
        self.net.seen += 1
        error = (self.net(x).float() - batch["y"]).square().mean()
        self.calls += 1
        if self.nan_from is not None and self.calls > self.nan_from:
            error = error * float("nan")
        return error, {"rmse": error.detach().sqrt()}

    def preview(self, modules: Mapping[str, nn.Module]) -> Tensor | None:
        torch.rand(3)
        value = torch.tanh(modules["net"](torch.ones(3, 4)))
        return value[:, :1, None, None].expand(3, 3, 4, 4)


def export(modules: Mapping[str, nn.Module], folder: Path) -> None:
    save_file(dict(modules["net"].state_dict()), folder / "net.safetensors")
    (folder / "config.json").write_text(json.dumps({"width": modules["net"].hidden.weight.shape[0]}))


def toy_job(**changes: Any) -> Job:
    return Job(ToyObjective(**changes), ToySource(), export)


def toy_recipe(
    folder: Path, *, model: dict[str, Any] | None = None, optimizer: dict[str, Any] | None = None, **trainer: Any
) -> Recipe:
    settings = {
        "steps": 6,
        "batch_size": 8,
        "ema": 0.9,
        "log_every": 1,
        "device": "cpu",
        "tensorboard": False,
        "precision": "fp32",
        "checkpoint_every": "never",
        **trainer,
    }
    return Recipe(
        job=JobSection(kind="toy"),
        model=model or {"width": 8},
        optimizer=OptimizerSection.model_validate(
            {"kind": "muon", "lr": 0.01, "weight_decay": 0.01, **(optimizer or {})}
        ),
        schedule=ScheduleSection(kind="cosine", warmup=2),
        trainer=TrainerSection.model_validate(settings),
        output=OutputSection(folder=str(folder)),
    )
