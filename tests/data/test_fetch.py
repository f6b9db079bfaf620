from __future__ import annotations

import os
from pathlib import Path

import pytest

from frolic.data.starter.fetch import fetch, home, integrity
from frolic.data.starter.packages import STARTER_PACKAGES, NpmPackage
from frolic.errors import FileError, NetworkError


@pytest.fixture
def package(tmp_path: Path) -> NpmPackage:
    served = tmp_path / "served.tgz"
    served.write_bytes(b"the tarball")
    return NpmPackage("@scope/sprites", "1.2.3", integrity(served), "MIT")


def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_fetches_once_then_uses_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: NpmPackage) -> None:
    log = tmp_path / "log"
    fake_npm(tmp_path, monkeypatch, f'echo "$@" >> {log}; printf "the tarball" > scope-sprites-1.2.3.tgz')
    cache = tmp_path / "cache"
    for _ in range(2):
        assert fetch([package], cache)[package].read_bytes() == b"the tarball"
    assert len(log.read_text().splitlines()) == 1
    assert log.read_text().startswith("pack @scope/sprites@1.2.3 ")
    assert [path.name for path in cache.iterdir()] == ["scope-sprites-1.2.3.tgz"]


def test_a_damaged_cached_file_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: NpmPackage
) -> None:
    fake_npm(tmp_path, monkeypatch, 'printf "the tarball" > scope-sprites-1.2.3.tgz')
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / package.tarball).write_bytes(b"half")
    assert fetch([package], cache)[package].read_bytes() == b"the tarball"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'npm error 404 not found' >&2; exit 1", "404 not found"),
        ("exit 7", "exit code 7"),
        ("printf other > scope-sprites-1.2.3.tgz", "checksum"),
    ],
)
def test_refusals_name_the_package_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: NpmPackage, script: str, words: str
) -> None:
    fake_npm(tmp_path, monkeypatch, script)
    cache = tmp_path / "cache"
    with pytest.raises(NetworkError, match=f"(?s)@scope/sprites@1.2.3: .*{words}"):
        fetch([package], cache)
    assert list(cache.iterdir()) == []


def test_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: NpmPackage) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NetworkError, match="npm client is not installed"):
        fetch([package], tmp_path / "cache")


def test_a_cache_that_cannot_be_made(tmp_path: Path, package: NpmPackage) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="Choose a cache folder"):
        fetch([package], tmp_path / "file" / "cache")


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROLIC_HOME", "/somewhere")
    assert home() == Path("/somewhere")
    monkeypatch.delenv("FROLIC_HOME")
    assert home() == Path("~/.cache/frolic").expanduser()


def test_every_pin_is_exact() -> None:
    for package in STARTER_PACKAGES:
        assert package.integrity.startswith("sha512-") and len(package.integrity) == 95
        assert package.version.count(".") == 2
