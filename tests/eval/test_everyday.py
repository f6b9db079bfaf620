from __future__ import annotations

import re

import pytest

from frolic.errors import RequestError
from frolic.eval.judge import Judge
from frolic.eval.starter import SINGLE_EVERYDAY, suite


def test_two_hundred_different_plain_prompts() -> None:
    cases = suite(SINGLE_EVERYDAY)
    assert len(cases) == 200
    assert len({case.code for case in cases}) == 200
    assert len({case.prompt for case in cases}) == 200
    assert all(re.fullmatch(r"[a-z][a-z' -]{2,30}", case.prompt) for case in cases)


def test_a_limit_takes_evenly_spaced_prompts() -> None:
    cases = suite(SINGLE_EVERYDAY)
    assert suite(SINGLE_EVERYDAY, 4) == [cases[0], cases[50], cases[100], cases[150]]
    assert suite(SINGLE_EVERYDAY, 1000) == cases


def test_unknown_suite_and_bad_limit() -> None:
    with pytest.raises(RequestError, match="did you mean 'single-everyday'"):
        suite("single-everday")
    with pytest.raises(RequestError, match="--limit"):
        suite(SINGLE_EVERYDAY, 0)


def test_the_shipped_judge_knows_every_prompt_and_met_the_bar() -> None:
    judge = Judge.load()
    held_out = judge.facts["held_out"]
    assert held_out["accuracy"] > 0.95
    assert held_out["renderings"] >= 4 * len(judge.codes)
    assert {case.code for case in suite(SINGLE_EVERYDAY)} <= set(judge.codes)
    assert sum(parameter.numel() for parameter in judge.net.parameters()) <= 700_000
