from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import typer.main

import frolic
from frolic.cli import main as entry
from frolic.cli.main import dispatch
from frolic.errors import RequestError

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("given", "means"),
    [
        (["a red panda"], ["generate", "a red panda"]),
        (["-s", "3", "info"], ["generate", "-s", "3", "info"]),
        (["--json", "info", "a.png"], ["info", "--json", "a.png"]),
        (["info", "a.png"], ["info", "a.png"]),
        (["--json", "models", "list"], ["models", "list", "--json"]),
        (["--json", "-q", "lora", "info", "a", "--", "-b"], ["lora", "info", "--json", "-q", "a", "--", "-b"]),
        (["--json", "lora", "--help"], ["lora", "--json", "--help"]),
        (["generate", "train"], ["generate", "train"]),
        (["--from", "a.png"], ["generate", "--from", "a.png"]),
        (["doctr", "in a white coat"], ["generate", "doctr", "in a white coat"]),
        (["--version"], ["--version"]),
        ([], ["--help"]),
    ],
)
def test_what_is_not_a_command_is_a_request(given: list[str], means: list[str]) -> None:
    assert dispatch(given) == means


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["doctr"], "doctor"),
        (["traim", "starter/image", "trainer.steps=3"], "train"),
        (["modles", "list", "--json"], "models"),
        (["--json", "evl", "starter"], "eval"),
    ],
)
def test_a_mistyped_command_is_not_drawn(given: list[str], meant: str) -> None:
    with pytest.raises(RequestError, match=f"did you mean '{meant}'"):
        dispatch(given)


def test_words_like_commands_are_drawn_where_no_command_follows() -> None:
    for given in (["traim", "in the night"], ["modles", "-o", "a.png"], ["evl", "eye"]):
        assert dispatch(given) == ["generate", *given]


def test_the_groups_are_what_their_commands_say() -> None:
    for name, second in entry.GROUPS.items():
        group: Any = typer.main.get_command(entry._application(name))
        assert sorted(group.commands[name].commands) == second.split()


def test_version_and_help(command: Command) -> None:
    assert command("--version").out == f"frolic {frolic.__version__}\n"
    listed = command("--help")
    assert listed.code == 0 and all(name in listed.out for name in entry.COMMANDS)
    shown = command("generate", "--help")
    assert shown.code == 0 and "--guidance-scale" in shown.out
    for name in entry.COMMANDS:
        assert command(name, "--help").code == 0


@pytest.mark.parametrize(
    "arguments", [["x", "--bogus"], ["info", "--bogus"], ["info"], ["x", "--steps", "many"], ["x", "--steps"]]
)
def test_wrong_options_are_one_sentence(command: Command, arguments: list[str]) -> None:
    ran = command(*arguments)
    assert ran.code == 2 and ran.out == "" and ran.err.count("\n") == 1 and "--help" in ran.err


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError("oops")


def test_a_mistake_of_ours_is_one_sentence_and_debug_shows_it(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frolic.cli.generate._load", broken)
    ran = command("x")
    assert ran.code == 1 and ran.err.count("\n") == 1 and "--debug" in ran.err
    with pytest.raises(ZeroDivisionError):
        entry.main(["x", "--debug"])


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (MemoryError(), 4), (OSError(28, "full"), 4), (OSError(5, "io"), 3)]
)
def test_what_stops_a_run_has_its_exit_code(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("frolic.cli.generate._load", stop)
    ran = command("x")
    assert ran.code == code and ran.err.count("\n") == 1
    ran = command("x", "--json")
    event = json.loads(ran.out)
    assert ran.code == code == event["code"] and event["event"] == "error" and ran.err == ""
