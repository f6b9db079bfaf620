"""``${name}`` in a recipe: only variables that the recipe declares, never the process's environment."""

from __future__ import annotations

import re
from collections.abc import Mapping

from frolic.config.tree import Entry, Problems, Where
from frolic.errors import nearest

MAX_TEXT = 65_536
_REFERENCE = re.compile(r"\$(?P<escaped>\$)(?=\{)|\$\{(?P<name>[^{}]*)(?P<closed>\}?)")


class Variables:
    """Replaces references to declared variables.

    ``"${width}"`` alone takes the variable's value with its type; inside longer text it takes its text. ``$${`` is a
    literal ``${``. A variable may refer to others; a circle is a problem.
    """

    def __init__(self, declared: Mapping[str, Entry], problems: Problems) -> None:
        self._declared, self._problems = declared, problems
        self._known: dict[str, Entry] = {}
        self._open: list[str] = []

    def resolve(self, entry: Entry) -> Entry:
        """``entry`` with every reference in it replaced."""
        value = entry.value
        if isinstance(value, dict):
            return Entry({key: self.resolve(item) for key, item in value.items()}, entry.where)
        if isinstance(value, list):
            return Entry([self.resolve(item) for item in value], entry.where)
        if isinstance(value, str) and "${" in value:
            return Entry(self._text(value, entry.where), entry.where)
        return entry

    def _text(self, text: str, where: Where) -> object:
        whole = _REFERENCE.fullmatch(text)
        if whole and whole["name"] is not None and whole["closed"]:
            return self._variable(whole["name"], where).value

        def replace(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "$"
            if not match["closed"]:
                self._problems.add(where, f"{text[:60]!r} has a '${{' that is never closed; '$${{' stands for itself")
                return ""
            value = self._variable(match["name"], where).value
            if isinstance(value, dict | list):
                self._problems.add(where, f"${{{match['name']}}} is not a single value and cannot stand inside text")
                return ""
            return str(value).lower() if isinstance(value, bool) or value is None else str(value)

        result = _REFERENCE.sub(replace, text)
        if len(result) > MAX_TEXT:
            self._problems.add(where, f"this text grows beyond {MAX_TEXT} characters")
            return ""
        return result

    def _variable(self, name: str, where: Where) -> Entry:
        if name in self._known:
            return self._known[name]
        if name not in self._declared:
            self._problems.add(where, f"${{{name}}} is not declared in vars{nearest(name, self._declared)}")
            return Entry(None, where)
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            self._problems.add(self._declared[name].where, f"variables go in a circle: {circle}")
            return Entry(None, where)
        self._open.append(name)
        self._known[name] = self.resolve(self._declared[name])
        self._open.pop()
        return self._known[name]
