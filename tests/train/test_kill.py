from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import killed
import pytest
import torch
from test_trainer import assert_same_bits
from toy_job import toy_job, toy_recipe

from frolic.train.state import CheckpointStore, load_checkpoint
from frolic.train.trainer import Trainer


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    done = subprocess.run([sys.executable, killed.__file__, str(root)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the killed runs: how many threads share a sum decides its last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("moment", killed.MOMENTS)
def test_a_killed_run_goes_on_with_the_same_bits(root: Path, tmp_path: Path, moment: str) -> None:
    folder = root / moment
    store = CheckpointStore(folder / "checkpoints", 3)
    saved = [load_checkpoint(path).step for path in store.complete()]
    assert saved == ([2, 4] if moment in ("in-step", "after-rename") else [2])

    resumed = Trainer(toy_recipe(folder, checkpoint_every=2, steps=40), toy_job()).run(until=7)
    torch.manual_seed(0)
    straight = Trainer(toy_recipe(tmp_path / "straight", steps=40), toy_job()).run(until=7)
    assert_same_bits(load_checkpoint(resumed.checkpoint), load_checkpoint(straight.checkpoint))
    assert not list(store.folder.glob(".unfinished-*"))
