from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

from frolic.cli import evaluate as command
from frolic.data.starter import pack
from frolic.data.starter.concepts import Concept
from frolic.errors import CheckpointError, FileError, RequestError
from frolic.eval.judge import Judge, JudgeNet, shrink
from frolic.eval.train_judge import JudgeTraining, train, train_judge

RECIPE = JudgeTraining(steps=60, batch=24, held_out_views=5)


@pytest.fixture(scope="module")
def folder(shapes: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge of six shapes, trained through the whole path and written."""
    root = tmp_path_factory.mktemp("judge")
    concepts = [Concept(f"c{i}", f"c{i}", f"shape {i}", "g", (f"a shape {i}",), (), False) for i in range(6)]
    pack.write(root / "pack", shapes, concepts, {})
    train_judge(root / "pack", root / "judge", RECIPE)
    return root / "judge"


def test_learns_shapes_and_colours_and_says_so(folder: Path) -> None:
    facts = Judge.load(folder).facts
    assert facts["held_out"]["accuracy"] >= 0.9
    assert facts["held_out"]["renderings"] == 30
    assert facts["codes"] == [f"c{i}" for i in range(6)]
    assert facts["training"]["steps"] == 60


def test_verdicts_on_plain_pictures(folder: Path, shapes: Tensor) -> None:
    alpha = shapes[:, 3:].float() / 255
    on_white = (shapes[:, :3].float() / 255 * alpha + 1 - alpha) * 2 - 1
    pictures = torch.nn.functional.interpolate(torch.nn.functional.pad(on_white, [20] * 4, value=1.0), 128)
    verdicts = Judge.load(folder).judge(pictures)
    assert [verdict.code for verdict in verdicts] == [f"c{i}" for i in range(6)]
    assert all(verdict.best[0] == verdict.code and len(verdict.best) == 5 for verdict in verdicts)
    assert all(0 < verdict.probability <= 1 for verdict in verdicts)


def test_a_verdict_does_not_depend_on_batch_mates(folder: Path) -> None:
    judge = Judge.load(folder)
    x = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    alone = torch.cat([judge.logits(row) for row in x.split(1)])
    assert torch.allclose(judge.logits(x), alone, atol=1e-4)


def test_training_is_reproducible_and_leaves_the_global_generator_alone(shapes: Tensor) -> None:
    recipe = JudgeTraining(steps=3, batch=6, held_out_views=1)
    before = torch.get_rng_state()
    (first, _), (second, _) = train(shapes, recipe), train(shapes, recipe)
    assert torch.equal(before, torch.get_rng_state())
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_any_size_is_brought_to_the_judges_own() -> None:
    for height, width in ((64, 64), (128, 128), (100, 160)):
        assert shrink(torch.zeros(1, 3, height, width)).shape == (1, 3, 64, 64)


def test_bad_folders_and_recipes(folder: Path, tmp_path: Path, shapes: Tensor) -> None:
    with pytest.raises(FileError, match="train-judge"):
        Judge.load(tmp_path)
    weights = (folder / "judge.safetensors").read_bytes()
    facts = (folder / "judge.json").read_text()
    (tmp_path / "judge.json").write_text(facts)
    (tmp_path / "judge.safetensors").write_bytes(weights[:1000])
    with pytest.raises(CheckpointError, match="train-judge"):
        Judge.load(tmp_path)
    (tmp_path / "judge.safetensors").write_bytes(weights)
    (tmp_path / "judge.json").write_text(facts.replace('"c5"', '"c5", "c6"'))
    with pytest.raises(CheckpointError, match="train-judge"):
        Judge.load(tmp_path)
    with pytest.raises(RequestError, match="at least one step"):
        train(shapes, JudgeTraining(steps=0))


def test_a_judge_is_replaced_only_when_told_to(folder: Path) -> None:
    before = (folder / "judge.json").read_bytes()
    with pytest.raises(FileError, match="--force"):
        train_judge(folder.parent / "pack", folder, RECIPE)
    assert (folder / "judge.json").read_bytes() == before


def test_the_command_trains_and_reports(folder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    command.register(app)
    options = ["--data", folder.parent / "pack", "--out", tmp_path / "new", "--steps", 2, "--json"]
    result = CliRunner().invoke(app, ["eval", "train-judge", *map(str, options)])
    assert result.exit_code == 0, result.output
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["accuracy"] == Judge.load(tmp_path / "new").facts["held_out"]["accuracy"]


def test_size_of_the_net() -> None:
    assert sum(parameter.numel() for parameter in JudgeNet(1031).parameters()) <= 700_000
