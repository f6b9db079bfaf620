from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from frolic.errors import CheckpointError, FileError, ResourceError
from frolic.io import files
from frolic.io.files import whole_folder


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_whole_with_the_umasks_permissions(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        old = os.umask(mask)
        try:
            files.write_bytes(tmp_path / f"{mask}.bin", b"data")
        finally:
            os.umask(old)
        written = tmp_path / f"{mask}.bin"
        assert written.read_bytes() == b"data"
        assert stat.S_IMODE(written.stat().st_mode) == mode
    assert len(names(tmp_path)) == 3


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    files.write_bytes(path, b"old")
    with pytest.raises(FileError, match="already exists"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    files.write_bytes(path, b"new", force=True)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.png"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(FileError, match="already exists"), files.whole_file(path) as file:
        file.write(b"late")
        path.write_bytes(b"first")
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["a.png"]


def test_without_hard_links_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(files.os, "link", refuse)
    files.write_bytes(tmp_path / "a.bin", b"data")
    assert names(tmp_path) == ["a.bin"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.whole_file(tmp_path / "a.bin") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ResourceError, match="no room"):
        files.write_bytes(tmp_path / "a.bin", b"data")
    assert names(tmp_path) == []


def test_a_forced_write_to_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ResourceError):
            files.write_bytes(path, bytes(5000), force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_places_that_cannot_be_written_are_refused_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "none" / "a.png", tmp_path / "file" / "a.png", tmp_path):
        with pytest.raises(FileError):
            files.check_writable(path)
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(FileError, match="may write to"):
        files.check_writable(tmp_path / "a.png")


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, "\x00"])
def test_settings_that_are_not_an_object_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        files.read_json_object(tmp_path / "config.json")


def test_an_interrupt_between_two_names_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "export"
    with whole_folder(place) as new:
        (new / "a").write_text("old")
    true = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if target == place and self.suffix == ".tmp":
            raise KeyboardInterrupt
        return true(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), whole_folder(place, force=True, ours=lambda name: True) as new:
        (new / "a").write_text("new")
    assert (place / "a").read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["export"]
