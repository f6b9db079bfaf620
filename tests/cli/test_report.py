"""How far a run is, and how long it will take."""

from __future__ import annotations

import json
import sys

import pytest

from frolic.cli.report import Report

CLOCK = "frolic.cli.report.monotonic"


def steps(report: Report, monkeypatch: pytest.MonkeyPatch, ends: list[float]) -> None:
    times = iter(ends)
    monkeypatch.setattr(CLOCK, lambda: next(times))
    for index in range(len(ends)):
        report.step(index, len(ends))


def test_the_time_left_is_that_of_the_steps_since_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(Report(as_json=True, quiet=False), monkeypatch, [100.0, 102.0, 103.0, 106.0])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event.get("eta_s") for event in events] == [None, 4.0, 1.5, 0.0]


@pytest.mark.parametrize(
    ("step", "said"),
    [(0.4, "2/4"), (4.2, "2/4, 8 s left"), (100.0, "2/4, 3 min 20 s left"), (4000.0, "2/4, 2 h 13 min left")],
)
def test_a_terminal_says_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: float, said: str
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Report(as_json=False, quiet=False) as report:
        steps(report, monkeypatch, [step * number for number in range(4)])
    bars = [bar.strip() for bar in capsys.readouterr().err.split("\r")]
    assert bars[1].endswith(" 1/4") and bars[2].endswith(f" {said}") and bars[4].endswith(" 4/4") and bars[-1] == ""


def test_another_drawing_starts_its_own_clock(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(as_json=True, quiet=False)
    for start in (0.0, 1000.0):
        steps(report, monkeypatch, [start, start + 1, start + 2])
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [event.get("eta_s") for event in events] == [None, 1.0, 0.0]


def test_what_a_file_says_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Report(as_json=False, quiet=False) as report:
        report.note("made with torch \x1b[2Jgone, not 2")
    assert capsys.readouterr().err == "made with torch ?[2Jgone, not 2\n"
