from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

from frolic.data.starter.pack import read
from frolic.data.starter.packages import sha256
from frolic.data.starter.parcel import unwrap, wrap
from frolic.errors import FileError
from small_pack import small_concepts, small_sprites, write_small_pack


@pytest.mark.parametrize("step", [1, 4])
def test_a_pack_travels_and_is_whole_again(tmp_path: Path, step: int) -> None:
    before = write_small_pack(tmp_path / "before")
    wrap(before, tmp_path / "parcel.zip", step)
    unwrap(tmp_path / "parcel.zip", tmp_path / "deep" / "after")
    sprites, concepts = read(tmp_path / "deep" / "after")
    assert concepts == small_concepts()
    off = (sprites.int() - small_sprites().int()).abs()
    assert int(off[:, 3].max()) == 0, "alpha is kept"
    assert int(off.max()) == (0 if step == 1 else 2)
    after = json.loads((tmp_path / "deep" / "after" / "pack.json").read_text())
    named = json.loads((before / "pack.json").read_text())
    assert after["files"] == {name: sha256(tmp_path / "deep" / "after" / name) for name in named["files"]}
    assert {**after, "files": 0} == {**named, "files": 0}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["after"]


def test_smooth_pictures_are_a_fraction_of_their_size(tmp_path: Path) -> None:
    from frolic.data.starter.pack import write

    ramp = torch.linspace(0, 255, 64).byte().expand(10, 4, 64, 64).contiguous()
    write(tmp_path / "pack", ramp, small_concepts(), {})
    wrap(tmp_path / "pack", tmp_path / "parcel.zip")
    with zipfile.ZipFile(tmp_path / "parcel.zip") as archive:
        pictures = [entry.file_size for entry in archive.infolist() if entry.filename.endswith(".webp")]
    assert len(pictures) == 10 and sum(pictures) < ramp.numel() / 20


def test_what_is_no_parcel_and_what_would_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "parcel.zip").write_bytes(b"no zip")
    with pytest.raises(FileError, match="Wrap the training set again"):
        unwrap(tmp_path / "parcel.zip", tmp_path / "pack")
    before = write_small_pack(tmp_path / "before")
    wrap(before, tmp_path / "whole.zip")
    raw = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(FileError, match="Wrap the training set again"):
        unwrap(tmp_path / "half.zip", tmp_path / "pack")
    assert {path.name for path in tmp_path.iterdir()} == {"parcel.zip", "half.zip", "whole.zip", "before"}
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("kept")
    with pytest.raises(FileError, match="Choose another folder"):
        unwrap(tmp_path / "whole.zip", tmp_path / "thesis")
    with pytest.raises(FileError, match="frolic data starter"):
        wrap(tmp_path / "absent", tmp_path / "none.zip")
    assert not (tmp_path / "none.zip").exists()
