from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import frolic
from frolic.cli import evaluate as command
from frolic.errors import FileError, RequestError
from frolic.eval.judge import Judge
from frolic.eval.sheet import contact_sheet
from frolic.eval.starter import drawer, evaluate, overall, summarise
from frolic.eval.suites import Case, suite
from frolic.strength import Strength, strengths

CASES = [Case("single", f"a shape {i}", (f"c{i}",)) for i in range(5)]


class Vae:
    config = SimpleNamespace(stride=16)

    def float(self) -> Vae:
        return self

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z * 0.9


@dataclass
class FakePipeline:
    """Draws noise from ``seed + k``, as a real pipeline does, and remembers what it was asked."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    makes_clips: bool = False
    device: Any = field(default_factory=lambda: torch.device("cpu"))
    card: Any = field(default_factory=lambda: SimpleNamespace(hash="abc"))
    defaults: Any = field(default_factory=lambda: SimpleNamespace(steps=20, guidance_scale=3.0))
    vae: Vae = field(default_factory=Vae)

    def __call__(self, prompt: list[str], **options: Any) -> Any:
        self.calls.append({"prompt": prompt, **options})
        rows = [
            torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(options["seed"] + k)) * 2 - 1
            for k in range(len(prompt))
        ]

        class Drawn:
            pixels: Tensor = torch.stack(rows)

        return Drawn()


def test_rows_do_not_depend_on_the_batch_size(shape_judge: Judge) -> None:
    runs = []
    for batch in (1, 2, 5):
        pipe = FakePipeline()
        runs.append(list(evaluate(drawer(pipe, steps=3), shape_judge, CASES, seed=7, batch=batch)))
        assert all(call["steps"] == 3 and call["output"] == "tensor" for call in pipe.calls)
    for run in runs[1:]:
        assert [row.seed for row, _ in run] == [7, 8, 9, 10, 11]
        assert [(row.seen, row.correct) for row, _ in run] == [(row.seen, row.correct) for row, _ in runs[0]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(run, runs[0], strict=True))


def test_the_summary_counts(shape_judge: Judge) -> None:
    rows = [row for row, _ in evaluate(drawer(FakePipeline()), shape_judge, CASES, seed=0, batch=4)]
    summary = summarise("single", rows, shape_judge, 0, time.monotonic())
    assert summary.n == 5 and summary.concepts == 6
    assert summary.ceiling == shape_judge.facts["ceilings"]["single"]["accuracy"]
    assert summary.accuracy == sum(row.seen == row.codes[0] for row in rows) / 5
    assert summary.parts["top5"] >= summary.accuracy
    both = overall([summary, summary])
    assert both.n == 10 and both.accuracy == summary.accuracy and both.suite == "all"


def test_a_batch_of_none_is_refused(shape_judge: Judge) -> None:
    with pytest.raises(RequestError, match="--batch"):
        list(evaluate(drawer(FakePipeline()), shape_judge, CASES, seed=0, batch=0))


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, shape_judge: Judge) -> Any:
    monkeypatch.setattr(frolic, "load", lambda model, loras=None: FakePipeline(), raising=False)
    monkeypatch.setattr(Judge, "load", classmethod(lambda cls, folder=None: shape_judge))
    app = typer.Typer()
    command.register(app)
    return lambda name, *arguments: CliRunner().invoke(app, ["eval", name, *map(str, arguments)])


def test_the_command_prints_json_lines_and_saves(invoke: Any, tmp_path: Path, shape_judge: Judge) -> None:
    folder = tmp_path / "run"
    result = invoke("starter", "--suite", "single", "--limit", 3, "--batch", 2, "--json", "--save", folder)
    assert result.exit_code == 0, result.output
    *rows, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == [case.prompt for case in suite("single", shape_judge.concepts, 3)]
    assert summary["n"] == 3 and 0 <= summary["accuracy"] <= 1 and summary["suite"] == "single"
    assert len(list(folder.glob("00*.png"))) == 3
    assert (folder / "results.jsonl").read_text() == result.stdout
    assert Image.open(folder / "sheet.png").width > 3 * 128


def test_all_suites_end_in_one_line_and_a_file(invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from frolic.eval import starter, suites

    some = {name: suites.SUITES[name] for name in ("single", "two", "count")}
    monkeypatch.setattr(suites, "SUITES", some)
    monkeypatch.setattr(starter, "SUITES", some)
    out = tmp_path / "evaluation.json"
    result = invoke("starter", "--suite", "all", "--limit", 2, "--json", "--out", out)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["suite"] for line in lines if "n" in line] == ["single", "two", "count", "all"]
    last, kept = lines[-1], json.loads(out.read_text())
    assert last["n"] == 6 and set(last["suites"]) == {"single", "two", "count"}
    assert kept["accuracy"] == last["accuracy"] and kept["settings"]["weights"] == "abc"
    assert kept["settings"]["steps"] == 20 and kept["judge"]["ceilings"]
    assert "two objects both right" in invoke("table", out).stdout
    assert isinstance(invoke("starter", "--suite", "single", "--out", out).exception, FileError)


def test_reconstruction_is_added_to_the_file(invoke: Any, tmp_path: Path, shape_pack: Path) -> None:
    out = tmp_path / "evaluation.json"
    out.write_text('{"accuracy": 1}')
    result = invoke(
        "reconstruction", "--data", shape_pack, "--pictures", 4, "--side", 32, "--no-lpips", "--json", "--out", out
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["n"] == 4 and 15 < found["psnr"] < 40 and found["lpips"] is None
    added = found | {"side": 32, "weights": "abc"}
    assert json.loads(out.read_text()) == {"accuracy": 1, "reconstruction": added}


def test_a_file_of_figures_is_of_one_model(invoke: Any, tmp_path: Path, shape_pack: Path) -> None:
    out = tmp_path / "evaluation.json"
    rebuild = ("reconstruction", "--data", shape_pack, "--pictures", 2, "--side", 32, "--no-lpips", "--out", out)
    suite = ("starter", "--suite", "single", "--limit", 2, "--out", out, "--force")
    assert invoke(*rebuild).exit_code == 0
    again = invoke(*suite)
    assert again.exit_code == 0 and "other weights" not in again.output
    kept = json.loads(out.read_text())
    assert kept["reconstruction"]["weights"] == kept["settings"]["weights"] == "abc" and kept["n"] == 2

    # The weights have changed since.
    out.write_text(json.dumps(kept | {"reconstruction": kept["reconstruction"] | {"weights": "old"}}))
    refused = invoke(*rebuild)
    assert isinstance(refused.exception, RequestError) and "other weights" in str(refused.exception)
    assert json.loads(out.read_text())["reconstruction"]["weights"] == "old"
    said = invoke(*suite)
    assert said.exit_code == 0 and "reconstruction was of other weights" in said.stderr
    assert "reconstruction" not in json.loads(out.read_text())
    # With adapters it is another model too.
    assert invoke(*rebuild).exit_code == 0
    said = invoke(*suite, "--lora", "sketch:0.5")
    assert said.exit_code == 0 and "reconstruction was of other weights or adapters" in said.stderr
    assert isinstance(invoke(*rebuild).exception, RequestError)


def test_what_cannot_be_measured_is_said_at_once(invoke: Any, tmp_path: Path, shape_pack: Path) -> None:
    rebuild = ("reconstruction", "--data", shape_pack, "--pictures", 2, "--no-lpips")
    assert "needs a multiple of 16" in str(invoke(*rebuild, "--side", 40).exception)
    assert isinstance(invoke(*rebuild, "--side", 32, "--out", tmp_path / "none" / "f.json").exception, FileError)
    assert invoke("sheet", "--batch", 0).exit_code == 2
    clips: Any = FakePipeline(makes_clips=True, card=SimpleNamespace(name="m"))
    with pytest.raises(RequestError, match="draws videos"):
        drawer(clips)


def test_a_sheet_of_sixty_four(invoke: Any, tmp_path: Path, many: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from frolic.eval import measure

    cases = measure.cases_of_all(list(many), 64)
    assert len(cases) == 64 and len({case.suite for case in cases}) >= 7
    monkeypatch.setattr(measure, "cases_of_all", lambda concepts, count: cases)
    result = invoke("sheet", "--out", tmp_path / "sheet.png")
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "sheet.png").width == 8 * 134 + 6
    assert isinstance(invoke("sheet", "--out", tmp_path / "sheet.png").exception, FileError)


def test_the_command_speaks_plainly_without_json(invoke: Any) -> None:
    result = invoke("starter", "--suite", "single", "--limit", 2)
    assert "of 2 right" in result.stdout.splitlines()[-1]


def test_an_existing_folder_is_not_overwritten(invoke: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    result = invoke("starter", "--suite", "single", "--limit", 2, "--save", tmp_path)
    assert isinstance(result.exception, FileError)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_contact_sheet_grid() -> None:
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    sheet = contact_sheet(
        pictures, ["a red square", "a very long prompt that cannot fit in one line or two", "c"], 2, 100
    )
    assert sheet.width == 2 * 106 + 6
    assert sheet.getpixel((50, 50)) == (255, 0, 0)
    assert sheet.getpixel((150, 50)) == (0, 128, 0)
    assert sheet.getpixel((50, sheet.height // 2 + 50)) == (0, 0, 255)


def test_adapters_are_read_as_generate_reads_them() -> None:
    assert strengths(()) == {}
    found = strengths(["glow.safetensors:0.6", "dusk,steps=0-0.5"])
    assert found == {"glow.safetensors": Strength(0.6), "dusk": Strength(1.0, end=0.5)}
