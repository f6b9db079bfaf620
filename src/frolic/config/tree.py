"""YAML text as a tree that remembers where each value was written.

Scalars follow YAML 1.2's core schema, so ``1e-4`` is a number and ``no``, ``12:30`` and ``2026-01-01`` are strings.
Only plain data is read: no tags, no merge keys, no duplicate keys, and a bound on size, depth and aliases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from frolic.errors import ConfigError

MAX_CHARACTERS = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 32


@dataclass(frozen=True)
class Where:
    """The place a value was written: a file and line, or the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Entry:
    """A value (a scalar, ``dict[str, Entry]`` or ``list[Entry]``) and the place of its key."""

    value: Any
    where: Where


@dataclass
class Problems:
    """Everything found wrong so far, in order and without repeats; raised together."""

    found: dict[str, None] = field(default_factory=dict)

    def add(self, where: Where, text: str) -> None:
        self.found[f"{where}: {text}"] = None

    def check(self, subject: str) -> None:
        """Raises:
        ConfigError: listing every problem, if there is one.
        """
        if self.found:
            listed = "".join(f"\n  {problem}" for problem in self.found)
            raise ConfigError(f"{subject} cannot be used as it is; correct this first:{listed}")


class _CoreLoader(yaml.SafeLoader):
    """The YAML 1.2 core schema's scalars in place of YAML 1.1's."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_NULL, _BOOL, _INT, _FLOAT, _STR, _MAP, _SEQ = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "map", "seq")
)
for _tag, _pattern, _first in (
    (_NULL, r"~|null|Null|NULL|", [*"~nN", ""]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    (_INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    (
        _FLOAT,
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
):
    _CoreLoader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def _scalar(tag: str, text: str) -> Any:
    if tag == _NULL:
        return None
    if tag == _BOOL:
        return text.lower() == "true"
    if tag == _INT:
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    if tag == _FLOAT:
        return float(re.sub(r"\.(?=[iInN])", "", text))
    return text


class _Builder:
    def __init__(self, source: str, lines: bool, problems: Problems) -> None:
        self.source, self.lines, self.problems = source, lines, problems
        self.nodes = 0

    def where(self, node: yaml.Node) -> Where:
        return Where(self.source, node.start_mark.line + 1 if self.lines else None)

    def build(self, node: yaml.Node, where: Where, depth: int = 0) -> Entry:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise ConfigError(f"{where}: aliases or nesting expand to more than frolic reads; write the values out.")
        if node.tag not in (_NULL, _BOOL, _INT, _FLOAT, _STR, _MAP, _SEQ):
            self.problems.add(self.where(node), f"the tag {node.tag!r} is not allowed; write plain data")
            return Entry(None, where)
        if isinstance(node, yaml.MappingNode):
            return Entry(self._mapping(node, depth), where)
        if isinstance(node, yaml.SequenceNode):
            return Entry([self.build(item, self.where(item), depth + 1) for item in node.value], where)
        try:
            return Entry(_scalar(node.tag, node.value), where)
        except ValueError:
            self.problems.add(where, f"{node.value[:40]!r} is not a {node.tag.rpartition(':')[2]}")
            return Entry(None, where)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Entry]:
        built: dict[str, Entry] = {}
        for key, value in node.value:
            where = self.where(key)
            if not isinstance(key, yaml.ScalarNode) or key.tag != _STR:
                self.problems.add(where, "a key must be a plain word; put quotes around it")
            elif key.value == "<<":
                self.problems.add(where, "merge keys are not supported; use extends: or vars:")
            elif key.value in built:
                self.problems.add(where, f"the key {key.value!r} is already set on line {built[key.value].where.line}")
            else:
                built[key.value] = self.build(value, where, depth + 1)
        return built


def parse(text: str, source: str, problems: Problems, *, lines: bool = True) -> Entry:
    """Read one YAML document.

    Args:
        source: named in messages, with the line number when ``lines``.
        problems: receives what can be reported together with other problems.

    Raises:
        ConfigError: the text is not YAML, too long, or expands beyond the bounds of this module.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{source} is longer than {MAX_CHARACTERS} characters; a recipe is a short file.")
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
        if node is None:
            return Entry(None, Where(source))
        builder = _Builder(source, lines, problems)
        return builder.build(node, builder.where(node))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark and lines else None
        raise ConfigError(f"{Where(source, line)}: this is not valid YAML, {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: this is not valid YAML, {str(error).splitlines()[0]}.") from None
    except RecursionError:
        raise ConfigError(f"{source}: this is nested deeper than frolic reads.") from None


def merge(base: Entry, over: Entry) -> Entry:
    """``over`` laid on ``base``: mappings key by key, everything else replaced."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = dict(base.value)
    for key, entry in over.value.items():
        merged[key] = merge(merged[key], entry) if key in merged else entry
    return Entry(merged, over.where)


def plain(entry: Entry, problems: Problems) -> Any:
    """The tree as ordinary dicts, lists and scalars."""
    budget = MAX_NODES

    def walk(node: Entry) -> Any:
        nonlocal budget
        budget -= 1
        if budget < 0:
            return None
        if isinstance(node.value, dict):
            return {key: walk(item) for key, item in node.value.items()}
        if isinstance(node.value, list):
            return [walk(item) for item in node.value]
        return node.value

    value = walk(entry)
    if budget < 0:
        problems.add(entry.where, "variables expand to more than frolic reads; write the values out")
    return value


def locate(entry: Entry, path: Sequence[str | int]) -> Where:
    """The place of the value at ``path``, or of its nearest parent that was written."""
    for part in path:
        value = entry.value
        if isinstance(value, dict) and part in value:
            entry = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            entry = value[part]
        else:
            break
    return entry.where


def children(entry: Entry | None) -> Mapping[str, Entry]:
    """The entries of a mapping; nothing for anything else."""
    return entry.value if entry is not None and isinstance(entry.value, dict) else {}
