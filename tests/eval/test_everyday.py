"""The shipped judge, and the suite of everyday prompts."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from frolic.eval.judge import FILES, Judge
from frolic.eval.suites import SINGLE_EVERYDAY, SUITES, suite


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


def test_two_hundred_different_plain_prompts(judge: Judge) -> None:
    cases = suite(SINGLE_EVERYDAY, judge.concepts)
    assert len(cases) == 200
    assert len({case.codes for case in cases}) == 200
    assert len({case.prompt for case in cases}) == 200
    assert all(re.fullmatch(r"[a-z][a-z' -]{2,30}", case.prompt) for case in cases)


def test_the_shipped_judge_met_the_bar(judge: Judge) -> None:
    ceilings = judge.facts["ceilings"]
    assert len(judge.concepts) >= 1500
    assert ceilings["single"]["accuracy"] >= 0.97 and ceilings["single"]["n"] == len(judge.concepts)
    assert set(ceilings) == set(SUITES)


def test_the_shipped_judge_can_ask_every_suite(judge: Judge) -> None:
    for name in SUITES:
        cases = suite(name, judge.concepts)
        assert len(cases) >= 150
        assert all(set(case.codes) <= set(judge.codes) for case in cases)
        assert len({case.prompt for case in cases}) >= 80


def test_the_judges_files_stay_small() -> None:
    folder = resources.files("frolic").joinpath("eval/judge")
    assert sum(len(folder.joinpath(name).read_bytes()) for name in (*FILES, "judge.json")) < 5_000_000
