from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from toy_job import ToyObjective, ToySource, export, toy_job, toy_recipe

from frolic.errors import CheckpointError, ConfigError, FileError, NumericsError, ResourceError
from frolic.train.jobs import Job
from frolic.train.objectives.base import Batch
from frolic.train.state import Snapshot, load_checkpoint
from frolic.train.trainer import Outcome, Trainer


def assert_same_bits(a: Snapshot, b: Snapshot) -> None:
    assert a.step == b.step and a.state["random"] == b.state["random"]
    assert a.tensors.keys() == b.tensors.keys()
    for group, tensors in a.tensors.items():
        assert tensors.keys() == b.tensors[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, b.tensors[group][name]), (group, name)


def train(
    folder: Path, until: int | None = None, resume: str = "auto", job: Job | None = None, **changes: Any
) -> Outcome:
    torch.manual_seed(0)
    return Trainer(toy_recipe(folder, **changes), job or toy_job()).run(resume, until)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16", "accumulation": 2},
        {"prefetch": 2, "ema": 0.0, "optimizer": {"kind": "adamw"}},
        {"channels_last": True, "clip": 0.0},
    ],
    ids=["muon", "bf16-accumulated", "adamw-prefetched", "channels-last"],
)
def test_six_steps_are_three_and_three(tmp_path: Path, changes: dict[str, Any]) -> None:
    straight = train(tmp_path / "straight", **changes)
    train(tmp_path / "halves", until=3, **changes)
    torch.manual_seed(99)  # the checkpoint's own state counts
    halves = Trainer(toy_recipe(tmp_path / "halves", **changes), toy_job()).run()
    assert (halves.step, halves.stopped_by) == (6, None)
    assert_same_bits(load_checkpoint(straight.checkpoint), load_checkpoint(halves.checkpoint))
    for name in ("net.safetensors",):
        a, b = (load_file(tmp_path / run / "export" / name) for run in ("straight", "halves"))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_prefetching_changes_nothing(tmp_path: Path) -> None:
    a, b = train(tmp_path / "a"), train(tmp_path / "b", prefetch=3)
    assert_same_bits(load_checkpoint(a.checkpoint), load_checkpoint(b.checkpoint))


def test_accumulation_is_the_big_batch(tmp_path: Path) -> None:
    weights = []
    for passes in (1, 4):
        trainer = Trainer(
            toy_recipe(tmp_path / str(passes), accumulation=passes, optimizer={"kind": "adamw"}), toy_job(noise=0.0)
        )
        trainer.run()
        weights.append(torch.cat([param.detach().flatten() for param in trainer.modules["net"].parameters()]))
    assert torch.allclose(*weights, atol=1e-5)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_it_learns(tmp_path: Path, kind: str) -> None:
    outcome = train(
        tmp_path, steps=150, batch_size=64, job=toy_job(noise=0.0, width=16), optimizer={"kind": kind, "lr": 0.02}
    )
    assert outcome.step == 150
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.35 * lines[0]["loss"]
    assert lines[0]["step"] == 1 and lines[0].keys() >= {"loss", "rmse", "grad_norm", "lr", "samples_per_second"}


def test_averages_follow_the_weights(tmp_path: Path) -> None:
    tensors = load_checkpoint(train(tmp_path).checkpoint).tensors
    assert torch.equal(tensors["net"]["seen"], tensors["net.ema"]["seen"])
    assert not torch.equal(tensors["net"]["inner.weight"], tensors["net.ema"]["inner.weight"])
    exported = load_file(tmp_path / "export" / "net.safetensors")
    assert torch.equal(exported["inner.weight"], tensors["net.ema"]["inner.weight"])


def test_metrics_of_a_resumed_run_are_one_curve(tmp_path: Path) -> None:
    train(tmp_path, until=3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 9}\n{"step": 4, "lo')  # as a killed run leaves it
    train(tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tmp_path, until=2, tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_previews_do_not_disturb_the_run(tmp_path: Path) -> None:
    a, b = train(tmp_path / "a"), train(tmp_path / "b", preview_every=2)
    assert_same_bits(load_checkpoint(a.checkpoint), load_checkpoint(b.checkpoint))
    pictures = sorted((tmp_path / "b" / "previews").iterdir())
    assert [path.name for path in pictures] == [f"step-{step:08d}.png" for step in (2, 4, 6)]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (8, 8)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step(tmp_path: Path, number: signal.Signals) -> None:
    class Interrupted(ToySource):
        def batch(self, step: int, size: int, generator: torch.Generator) -> Batch:
            if step == 2:
                os.kill(os.getpid(), number)
            return super().batch(step, size, generator)

    before = signal.getsignal(number)
    outcome = train(tmp_path / "a", job=Job(ToyObjective(), Interrupted(), export))
    assert (outcome.step, outcome.stopped_by, outcome.export) == (3, number, None)
    assert signal.getsignal(number) is before
    assert_same_bits(
        load_checkpoint(train(tmp_path / "a").checkpoint), load_checkpoint(train(tmp_path / "b").checkpoint)
    )


def test_updates_that_are_not_finite_are_skipped_then_refused(tmp_path: Path) -> None:
    job = toy_job(nan_from=3)
    outcome = train(tmp_path / "few", job=job)
    tensors = load_checkpoint(outcome.checkpoint).tensors
    assert all(torch.isfinite(tensor).all() for tensor in tensors["net"].values())
    last = json.loads((tmp_path / "few" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["skipped"] == 3 and "loss" not in last
    with pytest.raises(NumericsError, match="for 20 updates in a row, up to step 23"):
        train(tmp_path / "many", job=toy_job(nan_from=3), steps=40)


def test_another_model_is_not_resumed(tmp_path: Path) -> None:
    train(tmp_path, until=1)
    with pytest.raises(ConfigError, match=r"model\.width: 8 in the checkpoint, now 16"):
        train(tmp_path, model={"width": 16}, job=toy_job(width=16))
    with pytest.raises(CheckpointError, match=r"inner\.weight is \[8, 4\], not \[16, 4\]"):
        train(tmp_path, job=toy_job(width=16))


def test_resume_choices(tmp_path: Path) -> None:
    first = train(tmp_path / "a", until=3)
    with pytest.raises(FileError, match="already holds a run"):
        train(tmp_path / "a", resume="never")
    with pytest.raises(CheckpointError, match="neither"):
        train(tmp_path / "b", resume=str(tmp_path / "nothing"))
    for source in (first.checkpoint, tmp_path / "a"):
        folder = tmp_path / f"from-{source.name}"
        outcome = train(folder, resume=str(source))
        assert_same_bits(load_checkpoint(outcome.checkpoint), load_checkpoint(train(tmp_path / "c").checkpoint))
    train(tmp_path / "a")
    with pytest.raises(FileError, match="later checkpoints"):
        train(tmp_path / "a", resume=str(first.checkpoint))


def test_weights_can_be_warm_started(tmp_path: Path) -> None:
    first = train(tmp_path / "a")
    averaged = load_checkpoint(first.checkpoint).tensors["net.ema"]["inner.weight"]
    for count, place in enumerate((tmp_path / "a", first.checkpoint)):
        begun = train(tmp_path / f"b{count}", until=0, init_from=str(place))
        tensors = load_checkpoint(begun.checkpoint).tensors
        assert begun.step == 0 and not tensors["optimizer"]
        assert torch.equal(tensors["net"]["inner.weight"], averaged)
        assert torch.equal(tensors["net.ema"]["inner.weight"], averaged)
    begun = train(tmp_path / "later", init_from=str(tmp_path / "a"), init_step=5)
    assert begun.step == 6
    (line,) = (tmp_path / "later" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 6, "one step was left"
    given: list[Path] = []
    export_folder = str(tmp_path / "a" / "export")
    job = Job(ToyObjective(), ToySource(), export, warm_start=given.append)
    train(tmp_path / "c", until=0, init_from=export_folder, job=job)
    assert given == [tmp_path / "a" / "export"]
    with pytest.raises(ConfigError, match=r"trainer\.init_from"):
        train(tmp_path / "d", init_from=export_folder)
    with pytest.raises(CheckpointError, match=r"weights of net do not fit"):
        train(tmp_path / "e", init_from=str(tmp_path / "a"), job=toy_job(width=16))


def test_memory_that_runs_out_is_said(tmp_path: Path) -> None:
    class Greedy(ToyObjective):
        def loss(self, batch: Batch, generator: torch.Generator) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ResourceError, match=r"raise trainer\.accumulation"):
        train(tmp_path, job=Job(Greedy(), ToySource(), export))


def test_compiling_is_in_place_and_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compiled.append(type(self).__name__))
    train(tmp_path, until=1, compile=True)
    assert compiled == ["Linear", "Linear", "LayerNorm", "Linear"]


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "thesis.txt").write_text("mine")
    with pytest.raises(FileError, match="not written by a training"):
        train(tmp_path)
    assert (tmp_path / "export" / "thesis.txt").read_text() == "mine"


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    class Nested(ToySource):
        def batch(self, step: int, size: int, generator: torch.Generator) -> Batch:
            with pytest.raises(FileError, match="Another process trains"):
                train(tmp_path)
            return super().batch(step, size, generator)

    train(tmp_path, until=1, job=Job(ToyObjective(), Nested(), export))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_run_resumes_close_to_where_it_was(tmp_path: Path, precision: str) -> None:
    settings = {"device": "cuda", "precision": precision, "prefetch": 2}
    straight = train(tmp_path / "straight", **settings)
    train(tmp_path / "halves", until=3, **settings)
    halves = train(tmp_path / "halves", **settings)
    for name, weight in load_checkpoint(straight.checkpoint).tensors["net"].items():
        assert torch.allclose(weight, load_checkpoint(halves.checkpoint).tensors["net"][name], atol=1e-4)
