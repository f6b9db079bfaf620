from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
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
from frolic.eval.judge import Judge, JudgeNet
from frolic.eval.sheet import contact_sheet
from frolic.eval.starter import Case, drawer, evaluate, suite, summarise

CASES = [Case(f"c{i}", f"thing {i}", f"a thing {i}") for i in range(5)]


@dataclass
class FakePipeline:
    """Draws noise from ``seed + k``, as a real pipeline does, and remembers what it was asked."""

    calls: list[dict[str, Any]]

    def __call__(self, prompt: list[str], **options: Any) -> Any:
        self.calls.append({"prompt": prompt, **options})
        rows = [
            torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(options["seed"] + k)) * 2 - 1
            for k in range(len(prompt))
        ]

        class Drawn:
            pixels: Tensor = torch.stack(rows)

        return Drawn()


@pytest.fixture
def judge() -> Judge:
    torch.manual_seed(0)
    return Judge(JudgeNet(5), [case.code for case in CASES], {"held_out": {"accuracy": 0.97}})


def test_rows_do_not_depend_on_the_batch_size(judge: Judge) -> None:
    runs = []
    for batch in (1, 2, 5):
        pipe = FakePipeline([])
        runs.append(list(evaluate(drawer(pipe, steps=3), judge, CASES, seed=7, batch=batch)))
        assert all(call["steps"] == 3 and call["output"] == "tensor" for call in pipe.calls)
    for run in runs[1:]:
        assert [row.seed for row, _ in run] == [7, 8, 9, 10, 11]
        assert [(row.seen, row.correct) for row, _ in run] == [(row.seen, row.correct) for row, _ in runs[0]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(run, runs[0], strict=True))


def test_the_summary_counts(judge: Judge) -> None:
    rows = [row for row, _ in evaluate(drawer(FakePipeline([])), judge, CASES, seed=0, batch=4)]
    summary = summarise("single-everyday", rows, judge, 0, time.monotonic())
    assert summary.n == 5 and summary.concepts == 5 and summary.judge_held_out == 0.97
    assert summary.accuracy == sum(row.seen == row.code for row in rows) / 5
    assert summary.top5 == 1.0


def test_a_batch_of_none_is_refused(judge: Judge) -> None:
    with pytest.raises(RequestError, match="--batch"):
        list(evaluate(drawer(FakePipeline([])), judge, CASES, seed=0, batch=0))


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(frolic, "load", lambda model: FakePipeline([]), raising=False)
    app = typer.Typer()
    command.register(app)
    return lambda *arguments: CliRunner().invoke(app, ["eval", "starter", *map(str, arguments)])


def test_the_command_prints_json_lines_and_saves(invoke: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = invoke("--limit", 3, "--batch", 2, "--json", "--save", folder)
    assert result.exit_code == 0, result.output
    *rows, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == [case.prompt for case in suite("single-everyday", 3)]
    assert summary["n"] == 3 and 0 <= summary["accuracy"] <= 1 and summary["suite"] == "single-everyday"
    assert len(list(folder.glob("00*.png"))) == 3
    assert (folder / "results.jsonl").read_text() == result.stdout
    assert Image.open(folder / "sheet.png").width > 3 * 128


def test_the_command_speaks_plainly_without_json(invoke: Any) -> None:
    result = invoke("--limit", 2)
    assert "top-1 among" in result.stdout.splitlines()[-1]


def test_an_existing_folder_is_not_overwritten(invoke: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    result = invoke("--limit", 2, "--save", tmp_path)
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
