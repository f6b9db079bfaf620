"""What git keeps stays small: a working tree with it travels whole to machines that train."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_MOST = 40_000_000  # bytes


def test_tracked_files_are_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=_ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no clone")
    # A link is as long as what it says; the file that it means is counted where it is.
    assert sum((_ROOT / name).lstat().st_size for name in listed.stdout.split("\0") if name) <= _MOST
