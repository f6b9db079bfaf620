"""Fixtures that several folders share: a tiny model folder, its pipeline, and the command line in a scratch folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tiny import write_tiny_folder

if TYPE_CHECKING:
    from fake_hub import FakeHub
    from frolic.pipeline import Pipeline

# No test may reach the network; those of the Hub take this away and serve their own.
os.environ["FROLIC_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder that must not be changed."""
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def own_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model folder, to be spoiled."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "spoiled"))


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Pipeline:
    """The tiny model, loaded."""
    import frolic

    return frolic.load(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    """A Hub on this machine's loopback, for what ``fake_hub.prepare`` points at it."""
    from fake_hub import serving

    with serving() as hub:
        yield hub


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run ``frolic`` with the given arguments, in this process, in a folder of its own (``tmp_path / "here"``)."""
    from frolic.cli.main import main

    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = exit_info.value.code
        assert isinstance(code, int)
        return Ran(code, captured.out, captured.err)

    return run
