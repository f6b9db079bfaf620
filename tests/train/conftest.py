"""What most recipes train on: a tiny model and a small set of sprites, made once for each file of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from small_pack import write_small_pack
from tiny import write_tiny_folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_pack(tmp_path_factory.mktemp("sprites") / "pack")
