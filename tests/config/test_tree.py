from __future__ import annotations

import time

import pytest

from frolic.config.tree import Problems, locate, parse, plain
from frolic.errors import ConfigError


def read(text: str) -> object:
    problems = Problems()
    value = plain(parse(text, "file.yaml", problems), problems)
    problems.check("file.yaml")
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("3", 3),
        ("-7", -7),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("true", True),
        ("~", None),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("'1e-4'", "1e-4"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = read(f"a: {text}")
    assert found == {"a": value} and type(found["a"]) is type(value)  # type: ignore[index]


def test_places_are_kept() -> None:
    entry = parse("a:\n  b: 1\n  c:\n    - x\n    - y\n", "file.yaml", Problems())
    assert str(locate(entry, ("a", "c", 1))) == "file.yaml:5"
    assert str(locate(entry, ("a", "missing"))) == "file.yaml:1"


def test_all_refusals_come_together() -> None:
    with pytest.raises(ConfigError) as caught:
        read("a: 1\na: 2\nb: !!python/object/apply:os.system [ls]\n1: x\nd:\n  <<: {e: 1}\n")
    for expected in (
        "file.yaml:2: the key 'a'",
        "file.yaml:3: the tag",
        "file.yaml:4: a key",
        "file.yaml:6: merge keys",
    ):
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["a: [1\nb: 2", "a: b: c", "a: \x00", "a: 1\n---\nb: 2", "a: *nowhere", "a: !!int x", "[" * 5000, "x" * 1_000_001],
)
def test_broken_text_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert len(str(caught.value)) < 400


def test_an_alias_bomb_is_refused_at_once() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
    start = time.perf_counter()
    with pytest.raises(ConfigError, match="expand to more"):
        read(bomb)
    assert time.perf_counter() - start < 5
    with pytest.raises(ConfigError, match="expand to more"):
        read("a: &a [*a]")
