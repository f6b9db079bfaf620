from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from frolic.cli import data as command
from frolic.data.starter import pack
from frolic.data.starter.concepts import Concept
from frolic.data.starter.packages import ANNOTATIONS, LABELS, SPRITES
from frolic.errors import FileError

CONCEPTS = [
    Concept("1f534", "1f534", "red circle", "symbols", ("a red circle", "red circle"), ("round",), True),
    Concept("1f535", "1f535", "blue circle", "symbols", ("a blue circle",), (), False),
]


def sprites() -> torch.Tensor:
    return torch.randint(0, 256, (2, 4, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_written_and_read_back(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "pack"
    facts = pack.write(out, sprites(), CONCEPTS, {"pkg@1": {"sha256": "0"}})
    rgba, concepts = pack.read(out)
    assert torch.equal(rgba, sprites()) and concepts == CONCEPTS
    assert facts == json.loads((out / "pack.json").read_text())
    assert (facts["concepts"], facts["everyday"], facts["captions"], facts["side"]) == (2, 1, 3, 160)
    rows = json.loads((out / "concepts.json").read_text())
    assert set(rows[0]) == {"code", "name", "group", "captions", "keywords", "everyday"}
    assert [path.name for path in out.parent.iterdir()] == ["pack"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        pack.write(tmp_path / "pack", sprites(), CONCEPTS, {})
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "pack").iterdir()} == {0o640}


def test_a_pack_is_replaced_but_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "pack"
    pack.write(out, sprites(), CONCEPTS, {})
    pack.write(out, sprites()[:1], CONCEPTS[:1], {})
    assert len(pack.read(out)[1]) == 1
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("kept")
    with pytest.raises(FileError, match="Choose another folder"):
        pack.build(foreign)
    assert (foreign / "chapter.txt").read_text() == "kept"


@pytest.mark.parametrize("lost", ["pack.json", "concepts.json", "sprites.safetensors"])
def test_a_pack_that_is_not_whole_is_refused(tmp_path: Path, lost: str) -> None:
    out = tmp_path / "pack"
    pack.write(out, sprites(), CONCEPTS, {})
    (out / lost).write_bytes((out / lost).read_bytes()[:20])
    with pytest.raises(FileError, match="frolic data starter"):
        pack.read(out)


def test_sprite_has_straight_alpha_and_bled_colour(webp: Callable[[str], bytes]) -> None:
    pixels = pack.sprite(webp("#ff8000"))
    assert pixels.shape == (4, 160, 160) and pixels.dtype == torch.uint8
    assert pixels[:, 80, 80].tolist() == [255, 128, 0, 255]
    assert pixels[3, 0, 0] == 0
    assert (pixels[:3, 0, 0].int() - torch.tensor([255, 128, 0])).abs().max() <= 3


def tarball(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return path


def test_the_command_builds_a_pack_from_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, webp: Callable[[str], bytes]
) -> None:
    emoji = [
        {"label": name, "hexcode": code, "emoji": sign, "group": 0, "subgroup": 0, "tags": ["tag"]}
        for name, code, sign in (("red apple", "1F34E", "🍎"), ("pear", "1F350", "🍐"))
    ]
    groups = {"groups": {"0": "food-drink"}, "subgroups": {"0": "food-fruit"}}
    spoken = {"annotations": {"annotations": {"🍐": {"default": ["fruit"], "tts": ["pear"]}}}}
    files = {
        SPRITES: {f"package/assets/{code}.webp": webp(hue) for code, hue in (("1f350", "green"), ("1f34e", "red"))},
        LABELS: {
            "package/en/data.json": json.dumps(emoji).encode(),
            "package/meta/groups.json": json.dumps(groups).encode(),
        },
        ANNOTATIONS: {"package/annotations/en/annotations.json": json.dumps(spoken).encode()},
    }
    found = {package: tarball(tmp_path / package.tarball, content) for package, content in files.items()}
    monkeypatch.setattr(pack, "fetch", lambda packages, cache: found)
    app = typer.Typer()
    command.register(app)
    result = CliRunner().invoke(app, ["data", "starter", "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["concepts"] == 2
    rgba, concepts = pack.read(tmp_path / "out")
    assert [concept.captions[0] for concept in concepts] == ["a red apple", "a pear"]
    assert all(concept.everyday for concept in concepts)
    assert rgba[0, :3, 80, 80].tolist() == [255, 0, 0]
    assert rgba[1, :3, 80, 80].tolist() == [0, 128, 0]
