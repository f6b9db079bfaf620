from __future__ import annotations

from pathlib import Path

import pytest

from frolic.errors import ModelNotFoundError
from frolic.io.cache import origin, size_text
from frolic.io.hub_names import HubName, cache_folder, parse


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("acme/sketch", HubName("acme/sketch")),
        ("acme/Sana_1.6B-x", HubName("acme/Sana_1.6B-x")),
        ("hf://acme/sketch@v1.0", HubName("acme/sketch", "v1.0")),
        ("acme/sketch@refs/pr/3", HubName("acme/sketch", "refs/pr/3")),
        ("acme/sketch@" + "a" * 40, HubName("acme/sketch", "a" * 40)),
    ],
)
def test_names(text: str, name: HubName) -> None:
    assert parse(text) == name and str(name) == text.removeprefix("hf://")


@pytest.mark.parametrize(
    "text",
    ["sketch", "./acme/sketch", "../sketch", "/acme/sketch", "~/sketch", "acme/sketch/", "a/b/c", "acme\\sketch", ""]
    + ["models/sketch.safetensors", "models/sketch.ckpt"],
)
def test_paths_and_words_are_no_names(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("my models/sketch", r"its organisation has ' '"),
        ("acme/sk%tch!", r"its name has '!' '%'"),
        ("acme/-sketch", r"its name starts or ends with '-'"),
        ("acme/sk--etch", r"it has '--'"),
        ("acme/sk..etch", r"it has '\.\.'"),
        ("acme/sketch.git", r"ends with '\.git'"),
        ("acme/" + "s" * 97, "longer than 96"),
        ("acme/sk\u202eetch", r"its name has '\\u202e'"),
        ("acme/sk\0etch", r"its name has '\\x00'"),
        ("acme/sketch@", "nothing stands after '@'"),
        ("acme/sketch@a b", "its revision has ' '"),
        ("acme/sketch@../../x", "not the name of a branch"),
        ("acme/sketch@" + "r" * 256, "longer than 255"),
        ("https://example.org/acme/sketch", "is an address; give the repository as org/name"),
    ],
)
def test_wrong_names_say_what_is_wrong(text: str, wrong: str) -> None:
    with pytest.raises(ModelNotFoundError, match=wrong):
        parse(text)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ModelNotFoundError, match=r"its organisation has ' '.* its name has '!'.* its revision has '~'"):
        parse("a b/c!d@~")


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("acme/sketch").mkdir(parents=True)
    assert parse("acme/sketch") is None and parse("acme/other") is not None


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": "/b", "HF_HOME": "/c"}, "/b"),
        ({"HF_HOME": "/c", "XDG_CACHE_HOME": "/d"}, "/c/hub"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
        ({"HOME": "/h", "HF_HOME": "~/x/$WHO", "WHO": "me"}, "/h/x/me/hub"),
    ],
)
def test_the_cache_lies_where_the_library_has_it(
    environment: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert cache_folder() == Path(folder)


def test_a_snapshot_knows_its_name(tmp_path: Path) -> None:
    commit = "c" * 40
    path = tmp_path / "models--acme--sketch" / "snapshots" / commit
    assert origin(path) == HubName("acme/sketch", commit, commit)
    assert origin(tmp_path / "snapshots" / commit) is None and origin(tmp_path) is None


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (103_456, "103 kB"), (3_210_000_000, "3.2 GB"), (2e12, "2000 GB")],
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert size_text(size) == text
