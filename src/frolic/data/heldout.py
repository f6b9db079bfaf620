"""Combinations kept out of all training, so that evaluation can ask for what no training picture showed."""

from __future__ import annotations

import hashlib

KINDS = ("pair", "count", "colour", "ground", "motion")
ONE_OF = 10


def reserved(kind: str, *parts: str) -> bool:
    """Whether a combination is only ever evaluated: one of ten, by a hash, so that it holds across packs and versions.

    ``parts`` are two codes in either order (``pair``: no training picture shows both), a code and ``"2"`` to ``"4"``
    (``count``), a code and a colour word (``colour``), a code and a ground's word (``ground``), or a code and a move
    (``motion``).
    """
    assert kind in KINDS and len(parts) == 2, (kind, parts)
    ordered = sorted(parts) if kind == "pair" else parts
    digest = hashlib.sha256("\0".join((kind, *ordered)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % ONE_OF == 0
