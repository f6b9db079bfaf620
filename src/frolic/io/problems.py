"""Collect everything that is wrong, grouped, and say it once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from frolic.errors import FrolicError

_SHOWN = 8


class Problems:
    """A list of what is wrong under one ``headline`` (a sentence without its full stop, which says what to do)."""

    def __init__(self, headline: str) -> None:
        self.headline = headline
        self._groups: dict[str, list[tuple[str, Sequence[str]]]] = {}

    def add(self, group: str, item: str, near: Sequence[str] = ()) -> None:
        """Note ``item`` in ``group``; the nearest of ``near`` is suggested with it."""
        self._groups.setdefault(group, []).append((item, near))

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __str__(self) -> str:
        lines = [f"{self.headline}:"]
        for group, items in self._groups.items():
            shown = [item + _hint(item, near) for item, near in items[:_SHOWN]]
            if len(items) > _SHOWN:
                shown.append(f"and {len(items) - _SHOWN} more")
            lines.append(f"  {group} ({len(items)}): {', '.join(shown)}")
        return "\n".join(lines)

    def raise_any(self, kind: type[FrolicError]) -> None:
        """Raise all of it as one ``kind``, if there is any."""
        if self:
            raise kind(str(self))


def _hint(word: str, known: Sequence[str]) -> str:
    # Matching costs |known| comparisons for each shown item; a wholly foreign file has thousands, and no near names.
    match = difflib.get_close_matches(word, known[:2000], n=1, cutoff=0.75)
    return f" (near {match[0]})" if match else ""
