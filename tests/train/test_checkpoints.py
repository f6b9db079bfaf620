from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from toy_job import toy_job, toy_recipe

from frolic.errors import CheckpointError, ResourceError
from frolic.train import state
from frolic.train.progress import Silent
from frolic.train.state import CheckpointStore, Snapshot, is_checkpoint, load_checkpoint
from frolic.train.trainer import Trainer


def snapshot(step: int) -> Snapshot:
    tied = torch.arange(4.0)
    return Snapshot(step, {"net": {"a": tied, "b": tied, "c": torch.ones(2, 3).T}}, {"note": "x"})


def test_what_is_saved_is_loaded_and_the_last_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    for step in (1, 2, 30):
        store.save(snapshot(step))
    assert [path.name for path in store.complete()] == ["step-00000002", "step-00000030"]
    loaded = load_checkpoint(store.complete()[-1])
    assert loaded.step == 30 and loaded.state["note"] == "x"
    assert torch.equal(loaded.tensors["net"]["b"], torch.arange(4.0)) and loaded.tensors["net"]["c"].shape == (3, 2)
    assert {path.suffix for path in store.complete()[-1].iterdir()} == {".json", ".safetensors"}


def test_anything_cut_short_does_not_count(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=9)
    for step in range(1, 5):
        store.save(snapshot(step))
    first, second, third, fourth = store.complete()
    (first / "complete.json").unlink()
    (second / "net.safetensors").write_bytes(b"")
    (third / "complete.json").write_text('{"fi')
    assert store.complete() == [fourth] and not any(map(is_checkpoint, (first, second, third, tmp_path / "absent")))
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        load_checkpoint(second)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class Notes(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_a_damaged_checkpoint_is_set_aside_and_said(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, checkpoint_every=2)
    newest = Trainer(recipe, toy_job()).run(until=4).checkpoint
    flip_a_byte(newest / "net.safetensors")
    notes = Notes()
    outcome = Trainer(recipe, toy_job(), notes).run()
    assert outcome.step == 6 and load_checkpoint(newest).step == 4
    assert "net.safetensors" in notes.texts[0] and "set aside as damaged-1-step-00000004" in notes.texts[0]
    for path in CheckpointStore(tmp_path / "checkpoints", 3).complete():
        flip_a_byte(path / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match="No checkpoint in"):
        Trainer(recipe, toy_job()).run()


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.save(snapshot(1))

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state, "_flush", full)
    with pytest.raises(ResourceError, match="no room on the disk"):
        store.save(snapshot(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_state_is_plain_json(tmp_path: Path) -> None:
    saved = json.loads((Trainer(toy_recipe(tmp_path), toy_job()).run(until=1).checkpoint / "state.json").read_text())
    assert saved["recipe"]["trainer"]["steps"] == 6 and saved["step"] == 1
