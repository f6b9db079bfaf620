from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from frolic.errors import CheckpointError
from frolic.io import safetensors as st
from frolic.io.pickled import STATES, extract, unpickle


def test_an_old_pickle_is_read_too(tmp_path):
    tensors = {"a": torch.randn(3, 2).T, "b": torch.ones(2, dtype=torch.int64)}
    torch.save(tensors, tmp_path / "in.pth", _use_new_zipfile_serialization=False)
    assert extract(tmp_path / "in.pth", tmp_path / "out.safetensors") == ("done", "")
    assert torch.equal(st.load(tmp_path / "out.safetensors")["a"], tensors["a"])


def test_tensors_that_share_their_numbers_are_each_written(tmp_path):
    one = torch.randn(50, 40)
    torch.save({"a": one, "b": one, "c": one[:7]}, tmp_path / "in.pth")
    assert extract(tmp_path / "in.pth", tmp_path / "out.safetensors") == ("done", "")
    got = st.load(tmp_path / "out.safetensors")
    assert torch.equal(got["a"], one) and torch.equal(got["b"], one) and torch.equal(got["c"], one[:7])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": torch.zeros(1).expand(10**13)}, "more numbers than it holds"),
        ({f"n{i}": tensor for tensor in [torch.zeros(1_000_000)] for i in range(40)}, "far more than"),
    ],
)
def test_a_small_pickle_cannot_become_a_large_file(tmp_path, value, said):
    torch.save({"state_dict": value}, tmp_path / "in.pth")
    kind, what = extract(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert kind == "broken" and said in what and not (tmp_path / "out.safetensors").exists()


def test_a_pickle_that_the_disk_has_no_room_for_is_refused_with_the_numbers(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(10)}, tmp_path / "in.pth")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=7))
    kind, what = extract(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert kind == "full" and "need 40 bytes" in what and "7 free" in what


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only there is a process's memory limited")
def test_a_pickle_that_asks_for_all_memory_gets_none(tmp_path):
    torch.save({"a": torch.randn(30, 20)}, tmp_path / "in.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "in.pth").read_bytes()
    assert data.count(b"M\x58\x02") == 1, "600, the size of the storage"
    (tmp_path / "in.pth").write_bytes(data.replace(b"M\x58\x02", b"\x8a\x05\x00\x00\x00\x00\x10"))
    with pytest.raises(CheckpointError, match="more memory than a file of its size"):
        unpickle(tmp_path / "in.pth", tmp_path / "out.safetensors")


def test_a_pickle_that_was_compressed_is_refused(tmp_path):
    torch.save({"a": torch.zeros(100)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as old, zipfile.ZipFile(tmp_path / "in.pth", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert extract(tmp_path / "in.pth", tmp_path / "x.safetensors") == (
        "broken",
        "it was compressed after it was written",
    )


@pytest.mark.parametrize("name", [*STATES, ""])
def test_a_pickles_tensors_are_found_in_it(tmp_path, name):
    tensors = {"a": torch.randn(3, 2).T, "b": torch.ones(2, dtype=torch.int64)}
    torch.save({name: tensors, "step": 3} if name else tensors, tmp_path / "in.pth")
    assert extract(tmp_path / "in.pth", tmp_path / "out.safetensors") == ("done", "")
    assert torch.equal(st.load(tmp_path / "out.safetensors")["a"], tensors["a"])


@pytest.mark.parametrize(
    "value", [[], {}, {"a": 3}, {"a": {"b": torch.ones(1)}}, {"a": torch.ones(1, dtype=torch.complex64)}]
)
def test_a_pickle_without_plain_tensors_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "in.pth")
    kind, said = extract(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert kind == "broken" and "tensors" in said
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("data", [b"", b"<html>", b"PK\x03\x04 cut short"])
def test_a_damaged_pickle_is_refused(tmp_path, data):
    (tmp_path / "in.pth").write_bytes(data)
    kind, said = extract(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert kind == "broken" and "torch cannot read it" in said


def test_what_torch_says_of_its_guard_is_not_passed_on(tmp_path):
    (tmp_path / "in.pth").write_bytes(b"<html>")
    kind, what = extract(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert kind == "broken" and "weights_only" not in what
