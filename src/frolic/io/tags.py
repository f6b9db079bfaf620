"""Texts that MP4, GIF and WebP files carry, read from their structure alone: nothing is decoded.

A walk is bounded: in time by the number of its reads, in memory by ``MAX_TEXT`` for each text.
"""

from __future__ import annotations

import html
import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

MAX_TEXT = 1_000_000
_MAX_READS = 1_000_000
_XMP_RECORD = re.compile(r"<frolic:record>([^<]*)</frolic:record>")
_NAMES = {b"\xa9cmt": "comment", b"desc": "description"}


class Damaged(ValueError):
    """The file is not whole, or made to waste time."""


class _Walk:
    """Reads here and there in a file, so many times at most."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self.left = _MAX_READS

    def read(self, position: int, count: int) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise Damaged("too many parts")
        self.file.seek(position)
        data = self.file.read(count)
        if len(data) < count:
            raise Damaged("an early end")
        return data

    def byte(self, position: int) -> int:
        return self.read(position, 1)[0]

    def boxes(self, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Kind, first byte and end of the contents of every MP4 box from ``start`` to ``end``."""
        while end - start >= 8:
            size, kind = struct.unpack(">I4s", self.read(start, 8))
            head = 8
            if size == 1:
                size, head = struct.unpack(">Q", self.read(start + 8, 8))[0], 16
            elif size == 0:
                size = end - start
            if size < head or size > end - start:
                raise Damaged("a box that ends outside")
            yield kind, start + head, start + size
            start += size


def mp4_texts(file: BinaryIO) -> dict[str, str]:
    """``comment`` and ``description`` of an MP4 or MOV, as ffmpeg and others write them.

    Raises:
        Damaged, OSError: it cannot be read.
    """
    walk = _Walk(file)
    for kind, start, end in walk.boxes(0, walk.size):
        if kind != b"moov":
            continue
        texts: dict[str, str] = {}
        for inner, first, last in walk.boxes(start, end):
            if inner == b"meta":
                texts = {**_meta(walk, first, last), **texts}
            elif inner == b"udta":
                for leaf, low, high in walk.boxes(first, last):
                    if leaf == b"meta":
                        texts = {**_meta(walk, low, high), **texts}
        return texts
    raise Damaged("no index")


def _meta(walk: _Walk, start: int, end: int) -> dict[str, str]:
    """What one ``meta`` box holds: texts that are named by their kind, or by their place in a list of keys."""
    # In MP4 a version comes before the boxes, in QuickTime it does not.
    start += 0 if walk.read(start, min(8, end - start))[4:] == b"hdlr" else 4
    keys: list[str] = []
    texts: dict[str, str] = {}
    for kind, first, last in walk.boxes(start, end):
        if kind == b"keys":
            found = walk.boxes(first + 8, last)
            keys = [walk.read(low, min(high - low, 64)).decode("utf-8", "replace") for _, low, high in found]
        elif kind == b"ilst":
            for leaf, low, high in walk.boxes(first, last):
                place = int.from_bytes(leaf, "big") - 1
                name = _NAMES.get(leaf) or (keys[place] if 0 <= place < len(keys) else "")
                if name in _NAMES.values():
                    texts.setdefault(name, _data(walk, low, high))
    return texts


def _data(walk: _Walk, start: int, end: int) -> str:
    for kind, first, last in walk.boxes(start, end):
        if kind == b"data" and 8 <= last - first <= MAX_TEXT + 8:
            return walk.read(first + 8, last - first - 8).decode("utf-8", "replace")
    return ""


def gif_comment(file: BinaryIO) -> str:
    """The first comment of a GIF, or an empty text.

    Raises:
        Damaged, OSError: it cannot be read.
    """
    walk = _Walk(file)
    position = 13 + _table(walk.byte(10))
    while (kind := walk.byte(position)) != ord(";"):
        if kind == ord("!"):
            if walk.byte(position + 1) == 0xFE:
                return _comment(walk, position + 2)
            position += 2
        elif kind == ord(","):
            position += 11 + _table(walk.byte(position + 9))
        else:
            raise Damaged("an unknown block")
        while length := walk.byte(position):
            position += length + 1
        position += 1
    return ""


def _table(flags: int) -> int:
    """Bytes of the table of colours that ``flags`` announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _comment(walk: _Walk, position: int) -> str:
    parts: list[bytes] = []
    for _ in range(MAX_TEXT // 255 + 1):
        length = walk.byte(position)
        if not length:
            return b"".join(parts).decode("utf-8", "replace")
        parts.append(walk.read(position + 1, length))
        position += length + 1
    raise Damaged("a comment that is too long")


def webp_record(file: BinaryIO) -> str:
    """The text that ``xmp`` put into a WebP, or an empty one.

    Raises:
        Damaged, OSError: it cannot be read.
    """
    walk = _Walk(file)
    size = 8 + int.from_bytes(walk.read(4, 4), "little")
    if size > walk.size:
        raise Damaged("an early end")
    position = 12
    while size - position >= 8:
        kind, length = struct.unpack("<4sI", walk.read(position, 8))
        if length > size - position - 8:
            raise Damaged("a chunk that ends outside")
        if kind == b"XMP " and length <= 6 * MAX_TEXT:
            found = _XMP_RECORD.search(walk.read(position + 8, length).decode("utf-8", "replace"))
            return html.unescape(found[1]) if found else ""
        position += 8 + length + length % 2
    return ""


def xmp(record: str) -> bytes:
    """An XMP packet that holds ``record``."""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:frolic="urn:frolic:record">'
        f"<frolic:record>{html.escape(record, quote=False)}</frolic:record>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()
