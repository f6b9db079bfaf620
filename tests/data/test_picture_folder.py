from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from frolic.data.folder import PictureFolder, fitted, read_entries, whole
from frolic.data.shapes import sizes
from frolic.errors import ConfigError, FileError


def put(folder, name, colour="red", size=(20, 10)):
    Image.new("RGB", size, colour).save(folder / name)


def test_pictures_captions_and_given_controls(tmp_path):
    put(tmp_path, "b.jpg", "blue")
    put(tmp_path, "a.png")
    put(tmp_path, "a.control.png", "white")
    (tmp_path / "a.txt").write_text("  a red field\n")
    (tmp_path / "b.txt").write_text("a blue field")
    (tmp_path / ".DS_Store").write_text("x")
    pictures = PictureFolder.read(tmp_path, 8)
    assert pictures.captions == (("a red field",), ("a blue field",))
    assert pictures.pixels(torch.tensor([0])).shape == (1, 3, 8, 8)
    assert torch.equal(pictures.pixels(torch.tensor([0]))[0, :, 0, 0], torch.tensor([1.0, -1.0, -1.0]))
    controls = pictures.controls(torch.tensor([1, 0]), torch.neg)
    assert torch.equal(controls[0], -pictures.pixels(torch.tensor([1]))[0]), "made"
    assert torch.equal(controls[1], torch.ones(3, 8, 8)), "given"
    before = pictures.mark
    put(tmp_path, "a.control.png", "black")
    assert PictureFolder.read(tmp_path, 8).mark != before


def test_all_that_is_wrong_is_listed(tmp_path):
    for name in ("a.png", "b.png", "b.jpg", "c.png"):
        put(tmp_path, name)
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "c.txt").write_text(" ")
    (tmp_path / "d.txt").write_text("d")
    put(tmp_path, "e.control.png")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(FileError) as caught:
        PictureFolder.read(tmp_path, 8)
    for said in (
        "without a caption (1): a.png", "b.jpg and b.png", "empty captions (1): c.txt",
        "captions without a picture (1): d.txt",
        "control pictures without a picture (1): e.control.png", "neither pictures nor captions (1): notes.md",
    ):  # fmt: skip
        assert said in str(caught.value)


def test_a_caption_over_the_limit_is_a_problem_and_is_not_cut(tmp_path):
    for name, text in (("a", "ä" * 50_000), ("b", "a" + "ä" * 50_000)):
        put(tmp_path, f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=r"captions of more than 100,000 bytes \(1\): b\.txt"):
        PictureFolder.read(tmp_path, 8)
    (tmp_path / "b.txt").write_text("b")
    assert PictureFolder.read(tmp_path, 8).captions == (("ä" * 50_000,), ("b",))


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(FileError, match="no picture"):
        PictureFolder.read(tmp_path, 8)
    with pytest.raises(FileError, match="no folder"):
        PictureFolder.read(tmp_path / "absent", 8)
    put(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(FileError, match="cannot be read as a picture"):
        PictureFolder.read(tmp_path, 8).pixels(torch.tensor([0]))


def test_grey_in_sixteen_bits_is_grey(tmp_path):
    Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)).save(tmp_path / "a.png")
    assert abs(float(fitted(tmp_path / "a.png", 8, 8).mean()) - (128 / 127.5 - 1)) < 1e-4
    assert abs(float(whole(tmp_path / "a.png", 8)[:3].mean()) - 128 / 255) < 1e-4


def test_a_table_of_captions_holds_any_text_and_refuses_other_names(tmp_path):
    put(tmp_path, "a.png")
    put(tmp_path, "b.png")
    rows = '{"file_name": "a.png", "text": "one\u2028two"}\n{"file_name": ["b.png"], "text": "b"}\n'
    (tmp_path / "metadata.jsonl").write_text(rows, "utf-8")
    with pytest.raises(FileError, match=r"\(1\): line 2"):
        read_entries(tmp_path)
    (tmp_path / "metadata.jsonl").write_text(rows.replace('["b.png"]', '"b.png"'), "utf-8")
    assert [entry.caption for entry in read_entries(tmp_path)] == ["one\u2028two", "b"]


def test_sizes_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="multiple of 64; give a larger"):
        sizes(40, 64)
