from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from debs import debian

from frolic.data.starter import archives
from frolic.data.starter.vectors import Collection, framed, render
from frolic.errors import FileError

RED = '<rect width="50" height="9" fill="red"/>'
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" width="80pt" height="40pt">{RED}</svg>'


def test_clips_are_read_from_a_debian_package_and_through_links(tmp_path: Path) -> None:
    package = debian(tmp_path / "p.deb", {"a/x.svg": b"<svg/>", "a/y.svg": b"no"}, {"b/z.svg": "../a/x.svg"})
    assert dict(archives.clips(package, {"a/x.svg", "b/z.svg"})) == {"a/x.svg": "<svg/>", "b/z.svg": "<svg/>"}


@pytest.mark.parametrize("content", [b"not an ar file", b"!<arch>\n"])
def test_what_is_no_debian_package_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.deb").write_bytes(content)
    with pytest.raises(FileError, match=r"p\.deb"):
        list(archives.clips(tmp_path / "p.deb", {"x"}))


def test_a_script_without_a_picture_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("package/dist/_/dynamic-color/Safe.js")
        archive.addfile(member, BytesIO(b""))
    assert list(archives.icons(tmp_path / "p.tgz", {"Axe"})) == []
    with pytest.raises(FileError, match="Safe holds no picture"):
        list(archives.icons(tmp_path / "p.tgz", {"Safe"}))


def test_a_page_without_a_view_box_gets_one_in_user_units() -> None:
    assert 'viewBox="0 0 100 50"' in framed(SVG)
    boxed = SVG.replace("<svg", '<svg viewBox="0 0 9 9"')
    assert framed(boxed) == boxed
    relative = SVG.replace("80pt", "100%")
    assert framed(relative) == relative


def test_vector_pictures_are_drawn_at_any_size() -> None:
    pytest.importorskip("resvg_py")
    picture = render(SVG, 200)
    assert (picture.mode, picture.size) == ("RGBA", (200, 100))
    assert picture.getbbox() == (0, 0, 100, 18)
    assert picture.getpixel((60, 9)) == (255, 0, 0, 255)
    with pytest.raises(FileError, match="cannot be drawn"):
        render("<svg", 10)


def test_a_collection_finds_pictures_by_code_and_turns_mirrored_ones(tmp_path: Path) -> None:
    icons = {
        "width": 8,
        "height": 8,
        "icons": {"left": {"body": "<path/>"}},
        "aliases": {"right": {"parent": "left", "hFlip": True}, "lost": {"parent": "none"}},
    }
    files = {"icons": icons, "chars": {"1f448-fe0f": "left", "1f449": "right", "1f44a": "lost"}}
    with tarfile.open(tmp_path / "c.tgz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}.json")
            raw = json.dumps(content).encode()
            member.size = len(raw)
            archive.addfile(member, BytesIO(raw))
    with tarfile.open(tmp_path / "c.tgz") as archive:
        collection = Collection(archive)
    left, right = collection.svg("1f448"), collection.svg("1f449")
    assert left is not None and right is not None and 'viewBox="0 0 8 8"' in left
    assert "scale(-1 1)" in right and "scale" not in left
    assert collection.svg("1f44a") is None and collection.svg("1f600") is None
