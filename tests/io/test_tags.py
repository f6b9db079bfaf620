"""Texts in MP4, GIF and WebP: what others wrote, what is damaged, and what was made to waste time or memory."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from clips import clip, record
from frolic.errors import FileError
from frolic.io import tags, video
from frolic.io.media import read_record, read_texts


def box(kind: bytes, *contents: bytes) -> bytes:
    inside = b"".join(contents)
    return struct.pack(">I4s", len(inside) + 8, kind) + inside


def comment(text: bytes) -> bytes:
    return box(b"\xa9cmt", box(b"data", bytes(8), text))


def film(*items: bytes) -> bytes:
    listed = box(b"meta", bytes(4), box(b"hdlr", bytes(24)), box(b"ilst", *items))
    return box(b"ftyp", b"isom") + box(b"moov", box(b"mvhd", bytes(100)), box(b"udta", listed))


def texts(data: bytes, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "a.mp4").write_bytes(data)
    return read_texts(tmp_path / "a.mp4")


def test_a_comment_of_ours_is_found_and_one_of_others_is_not_ours(tmp_path: Path) -> None:
    ours = json.dumps(record())
    assert texts(film(comment(ours.encode())), tmp_path) == {"frolic": ours}
    assert (
        texts(film(box(b"\xa9nam", box(b"data", bytes(8), b"x")), comment(ours.encode())), tmp_path)["frolic"] == ours
    )
    for other in (b"a nice film", b'{"prompt": {}}', b"", b"\xff\xfe{"):
        assert texts(film(comment(other)), tmp_path) == {}
    assert texts(film(), tmp_path) == {}


def test_wide_and_open_ended_boxes_are_walked(tmp_path: Path) -> None:
    ours = json.dumps(record()).encode()
    plain = film(comment(ours))
    moov = plain[12:]
    wide = plain[:12] + struct.pack(">I4sQ", 1, b"free", 16 + 100) + bytes(100) + struct.pack(">I", 0) + moov[4:]
    assert texts(wide, tmp_path)["frolic"].encode() == ours


@pytest.mark.parametrize(
    "data",
    [
        box(b"ftyp", b"isom"),
        box(b"ftyp", b"isom") + struct.pack(">I4s", 2**31, b"moov"),
        box(b"ftyp", b"isom") + struct.pack(">I4s", 4, b"moov"),
        box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"moov", 2**63),
        box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"moov", 0),
        film(comment(b"x"))[:-3],
        box(b"ftyp", b"isom") + box(b"moov", box(b"udta", struct.pack(">I4s", 2**30, b"meta"))),
        b"GIF89a",
        b"GIF89a" + bytes(7) + b"!\xfe\x10abc",
        b"GIF89a" + bytes(7) + b"!\xfe" + b"\xff" + bytes(254),
        b"GIF89a" + bytes(7) + b"?",
        b"GIF89a" + bytes(7) + b",",
        b"RIFF\xff\xff\xff\xffWEBP",
        b"RIFF\x0c\0\0\0WEBPXMP \xff\xff\xff\x7f",
    ],
)
def test_what_is_damaged_is_one_clear_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd"
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"odd is cut short or damaged|odd is not a PNG, MP4, GIF or WebP"):
        read_texts(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp"])
def test_no_cut_and_no_changed_byte_is_more_than_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    video.save_video(clip(2, 16, 16), path, fps=8, record=record())
    whole, dice = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in dice.integers(0, len(data), 3):
            data[place] = dice.integers(0, 256)
        path.write_bytes(bytes(data[: dice.integers(1, len(data))]) if dice.random() < 0.5 else bytes(data))
        try:
            read_record(path)
        except FileError as error:
            assert str(path) in str(error)


def test_a_file_of_tiny_parts_ends_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "_MAX_READS", 1000)
    for walk, data in (
        (tags.mp4_texts, box(b"ftyp", b"isom") + box(b"free") * 2000 + film()),
        (tags.mp4_texts, box(b"moov", box(b"udta") * 2000)),
        (tags.mp4_texts, film(*([comment(b"x")] * 2000))),
        (tags.gif_comment, b"GIF89a" + bytes(7) + b"!\xf9" + b"\1x" * 2000 + b"\0;"),
        (tags.gif_comment, b"GIF89a" + bytes(7) + b"!\xf9\0" * 2000 + b";"),
        (tags.webp_record, b"RIFF" + struct.pack("<I", 16004) + b"WEBP" + (b"JUNK" + bytes(4)) * 2000),
    ):
        with pytest.raises(tags.Damaged, match="too many parts"):
            walk(io.BytesIO(data))


def test_a_text_that_is_too_long_is_not_read_into_memory(tmp_path: Path) -> None:
    long = b'{"schema": 1, "x": "' + b"x" * 8 * tags.MAX_TEXT
    gif = b"".join(b"\xff" + long[at : at + 255] for at in range(0, 255 * 20_000, 255))
    hostile = {
        "a.mp4": film(comment(long)),
        "a.gif": b"GIF89a" + bytes(7) + b"!\xfe" + gif + b"\0;",
        "a.webp": b"RIFF" + struct.pack("<I", len(long) + 12) + b"WEBPXMP " + struct.pack("<I", len(long)) + long,
    }
    for name, data in hostile.items():
        (tmp_path / name).write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(FileError):
                read_record(tmp_path / name)
            assert tracemalloc.get_traced_memory()[1] < 6 * tags.MAX_TEXT
        finally:
            tracemalloc.stop()
