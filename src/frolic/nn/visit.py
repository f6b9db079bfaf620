"""Blocks whose weights may be elsewhere until they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def visiting(block: nn.Module) -> Iterator[None]:
    """For a part of ``block`` to be used without calling ``block`` itself: whoever keeps its weights elsewhere has set
    ``visit``, a context, which brings them for as long as it lasts."""
    visit = block.__dict__.get("visit")
    if visit is None:
        yield
        return
    with visit():
        yield
