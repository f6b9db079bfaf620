from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import pytest
import torch
import typer
from toy_job import ToyObjective, ToySource, export
from typer.testing import CliRunner, Result

from frolic.cli.train import register
from frolic.config import Recipe, Section
from frolic.errors import ConfigError
from frolic.train import jobs
from frolic.train.jobs import Job, JobKind, JobRegistry
from frolic.train.objectives.base import Batch
from frolic.train.progress import Bar, choose, duration

RECIPE = """\
job: {kind: toy}
model: {width: 8}
optimizer: {lr: 0.01}
trainer: {steps: 6, batch_size: 4, log_every: 2, device: cpu, tensorboard: false}
output: {folder: FOLDER}
"""


class ToySettings(Section):
    interrupt_at: int | None = None


def build(recipe: Recipe) -> Job:
    settings = recipe.section("job", ToySettings)

    class Source(ToySource):
        def batch(self, step: int, size: int, generator: torch.Generator) -> Batch:
            if step == settings.interrupt_at:
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(step, size, generator)

    return Job(ToyObjective(recipe.model["width"]), Source(), export)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(jobs, "built_in", lambda: JobRegistry({"toy": JobKind(build, {"job": ToySettings})}))
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(tmp_path / "run")))
    return str(path)


def frolic(*arguments: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["train", *arguments])


def test_a_run_an_interruption_and_its_end(recipe: str) -> None:
    result = frolic(recipe, "job.interrupt_at=1", "--json")
    assert result.exit_code == 130
    assert (
        json.loads(result.stdout.splitlines()[-1])["message"] == "Stopped after step 2; run the same command to go on."
    )
    result = frolic(recipe, "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [event["event"] for event in events] == ["note", "start", "metrics", "metrics", "done"]
    assert events[0]["message"].endswith("job.interrupt_at: 1 in the checkpoint, now None")
    assert events[1]["step"] == 2 and events[-1]["step"] == 6 and Path(events[-1]["export"]).is_dir()


def test_plain_lines(recipe: str) -> None:
    result = frolic(recipe, "--steps", "2")
    assert result.exit_code == 0
    assert "toy: step 0 of 2" in result.stderr and "step 2/2  loss" in result.stderr
    assert result.stdout.startswith("Step 2 of 6 is done; the model is in")


def test_showing_without_training(recipe: str) -> None:
    assert "starter/image" in json.loads(frolic("--list", "--json").stdout)
    assert "starter/image" in frolic("--list").stdout
    shown = frolic(recipe, "trainer.steps=7", "--print-config").stdout
    assert "steps: 7" in shown
    assert json.loads(frolic(recipe, "--print-config", "--json").stdout)["trainer"]["checkpoint_every"] == "600s"


def test_mistakes(recipe: str) -> None:
    assert isinstance(frolic().exception, ConfigError)
    assert "job.interupt_at" in str(frolic(recipe, "job.interupt_at=1").exception)
    assert "job.kind" in str(frolic(recipe, "job.kind=toi").exception)


def test_built_in_kinds_are_files_with_a_job() -> None:
    registry = jobs.built_in()
    known = {
        "clip-contrastive",
        "contrastive",
        "control",
        "distillation",
        "flow",
        "latent-contrastive",
        "layout",
        "lora",
        "preference",
        "reconstruction",
        "reward",
        "sprint",
        "video",
    }
    assert set(registry.kinds()) == known
    with pytest.raises(ConfigError, match="did you mean 'flow'"):
        registry.find("flaw")


def test_the_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    bar = choose(stream, as_json=False)
    assert isinstance(bar, Bar)
    bar.start("toy", 0, 4)
    bar.step(1, 90)
    bar.metrics(2, {"loss": 0.5, "seconds": 1.0}, 45)
    bar.note("[a note] in brackets")
    bar.stop()
    text = stream.getvalue()
    assert "2/4" in text and "45s" in text and "loss 0.5" in text and "[a note] in brackets" in text


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0s"), (42.4, "42s"), (185, "3m05s"), (7625, "2h07m")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
