from __future__ import annotations

import base64
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from debs import debian
from PIL import Image
from typer.testing import CliRunner

from frolic.cli import data as command
from frolic.data.starter import pack
from frolic.data.starter.concepts import Concept
from frolic.data.starter.packages import ANNOTATIONS, FLAT, ICONS, LABELS, NOTO, OPENCLIPART, SPRITES, WORDNET
from frolic.data.starter.wordnet import Synset, WordNet
from frolic.errors import FileError

SIDE = pack.SIDE
CONCEPTS = [
    Concept(
        "1f534",
        "red circle",
        "symbols",
        ("a red circle", "red circle"),
        ("a red dot",),
        ("round",),
        True,
        "red circle",
        "red circles",
        "red",
        0,
        {"flat": 2},
    ),
    Concept("1f535", "blue circle", "symbols", ("a blue circle",), row=1, near=("a marble", "a lens")),
]


def sprites() -> torch.Tensor:
    return torch.randint(0, 256, (3, 4, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_written_and_read_back(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "pack"
    facts = pack.write(out, sprites(), CONCEPTS, {"pkg@1": {"sha256": "0"}})
    rgba, concepts = pack.read(out)
    assert torch.equal(rgba, sprites()) and concepts == CONCEPTS
    assert facts == json.loads((out / "pack.json").read_text())
    assert (facts["format"], facts["concepts"], facts["everyday"], facts["captions"], facts["side"]) == (
        3,
        2,
        1,
        3,
        SIDE,
    )
    assert (facts["synonyms"], facts["nouns"], facts["recolourable"], facts["near"]) == (1, 1, 1, 2)
    assert (facts["pictures"], facts["styles"]) == (3, {"flat": 1})
    assert [path.name for path in out.parent.iterdir()] == ["pack"]


def test_each_picture_belongs_to_one_concept(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="belongs to one"):
        pack.write(tmp_path / "pack", sprites()[:2], CONCEPTS, {})


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
    pack.write(out, sprites()[[0, 1]], [replace(CONCEPTS[0], styles={"flat": 1})], {})
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


def test_an_older_pack_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "pack"
    pack.write(out, sprites(), CONCEPTS, {})
    facts = json.loads((out / "pack.json").read_text())
    (out / "pack.json").write_text(json.dumps({**facts, "format": 1}))
    with pytest.raises(FileError, match="another version"):
        pack.read(out)


def test_sprite_has_straight_alpha_and_bled_colour(webp: Callable[[str], bytes]) -> None:
    pixels = pack.sprite(Image.open(BytesIO(webp("#ff8000"))))
    assert pixels.shape == (4, SIDE, SIDE) and pixels.dtype == torch.uint8
    assert pixels[:, 112, 112].tolist() == [255, 128, 0, 255]
    assert pixels[3, 0, 0] == 0
    assert (pixels[:3, 0, 0].int() - torch.tensor([255, 128, 0])).abs().max() <= 3


def test_a_cut_picture_fills_its_square() -> None:
    page = Image.new("RGBA", (300, 200))
    page.paste((0, 0, 255, 255), (10, 20, 110, 70))
    square = pack.cut(page)
    assert square.size == (108, 108)
    assert square.getbbox() == (4, 29, 104, 79)


def tarball(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return path


def collection(*codes: str) -> dict[str, bytes]:
    body = '<circle cx="16" cy="16" r="12" fill="#00f"/>'
    icons = {"width": 32, "height": 32, "icons": {f"icon-{code}": {"body": body} for code in codes}}
    return {
        "package/icons.json": json.dumps(icons).encode(),
        "package/chars.json": json.dumps({code: f"icon-{code}" for code in codes}).encode(),
    }


PLUM = b'<svg width="100pt" height="50pt"><rect x="10" y="10" width="30" height="20" fill="#0ff"/></svg>'
PLUM = PLUM.replace(b"<svg", b'<svg xmlns="http://www.w3.org/2000/svg"')


def test_the_command_builds_a_pack_from_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, webp: Callable[[str], bytes], png: Callable[[str], bytes]
) -> None:
    pytest.importorskip("resvg_py")
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
        FLAT: collection("1f34e"),
        NOTO: collection("1f34e", "1f350"),
        ICONS: {
            "package/dist/_/dynamic-color/Safe.js": b'const s="data:image/png;base64,'
            + base64.b64encode(png("purple"))
            + b'";'
        },
    }
    found: dict[Any, Path] = {package: tarball(tmp_path / package.file, content) for package, content in files.items()}
    found[OPENCLIPART] = debian(tmp_path / OPENCLIPART.file, {"fruit/plum.svg": PLUM})
    found[WORDNET] = tarball(tmp_path / WORDNET.file, {})
    monkeypatch.setattr(pack, "fetch", lambda packages, cache: found)
    quince = Synset("n1", "n", "food", ("quince",), (), "an acid fruit")
    net = WordNet({"n1": quince}, {("quince", "n"): ("n1",)}, {("quince", "n"): 1})
    monkeypatch.setattr(pack.wordnet, "read", lambda path: net)
    monkeypatch.setattr(pack, "pieces", lambda words, cache: [1] * len(words))
    like = {"a quince": 1, "a pear": 1, "a red apple": 0, "a safe": 2, "a plum": 3}
    monkeypatch.setattr(pack, "embed", lambda texts, cache: torch.eye(5)[[like.get(text, 4) for text in texts]])
    lists = (
        "drop_subgroups",
        "drop",
        "keep",
        "keep_gendered",
        "no_article",
        "no_plural",
        "no_noun_subgroups",
        "no_noun",
    )
    rules: dict[str, Any] = {key: [] for key in lists}
    rules.update(captions={}, nouns={}, recolour={"1f34e": "red"})
    rules.update(icon={"objects": {"Safe": ["a safe"]}}, clip={"food-drink": {"fruit/plum.svg": ["a plum"]}})
    monkeypatch.setattr(pack, "curation", lambda: rules)
    app = typer.Typer()
    command.register(app)
    result = CliRunner().invoke(app, ["data", "starter", "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    assert (facts["concepts"], facts["pictures"], facts["styles"]) == (4, 7, {"flat": 1, "noto": 2})
    rgba, concepts = pack.read(tmp_path / "out")
    assert [concept.captions[0] for concept in concepts] == ["a red apple", "a pear", "a safe", "a plum"]
    assert [concept.everyday for concept in concepts] == [True, True, False, False]
    assert [concept.row for concept in concepts] == [0, 1, 2, 3]
    assert (concepts[0].colour, concepts[1].plural) == ("red", "pears")
    assert [concept.near for concept in concepts] == [(), ("a quince",), (), ()]
    hues = ([255, 0, 0], [0, 128, 0], [128, 0, 128], [0, 255, 255])
    assert [rgba[row, :3, 112, 112].tolist() for row in range(4)] == list(hues)
    assert concepts[1].styles.keys() == {"noto"}
    assert all(rgba[row, :3, 112, 112].tolist() == [0, 0, 255] for row in concepts[0].styles.values())
