from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def test_doctor_examines_the_machine_and_draws(
    command: Command, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("frolic.plan.find.ALIASES", {"starter": lambda: tiny_folder})
    monkeypatch.setenv("FROLIC_HOME", str(tmp_path / "caches"))
    ran = command("doctor", "--json")
    facts = json.loads(ran.out)
    assert ran.code == 0 and facts["picture"]["drawn"] and facts["picture"]["model"] == "tiny"
    assert facts["versions"]["torch"] != "missing" and facts["machine"]["threads"] >= 1
    assert facts["caches"]["folder"] == str(tmp_path / "caches") and "free" in facts["disk"]["caches"]
    shown = command("doctor")
    assert shown.code == 0 and "drawn: True" in shown.out


def test_doctor_says_when_it_cannot_draw(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("frolic.plan.find.ALIASES", {"starter": lambda: tmp_path / "gone"})
    ran = command("doctor", "--json")
    assert ran.code == 3 and "install frolic again" in json.loads(ran.out)["picture"]["message"]


def test_doctor_reports_whatever_a_driver_raises(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available")

    monkeypatch.setattr("frolic.assemble.load", load)
    ran = command("doctor", "--json")
    facts = json.loads(ran.out)
    assert ran.code == 1 and facts["versions"]["torch"], "the rest is there all the same"
    assert facts["picture"]["message"] == "RuntimeError: CUDA error: no kernel image is available"
