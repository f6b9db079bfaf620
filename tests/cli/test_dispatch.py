from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

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


def test_a_mistyped_command_is_not_drawn() -> None:
    with pytest.raises(RequestError, match="did you mean 'doctor'"):
        dispatch(["doctr"])


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
