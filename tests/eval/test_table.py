from __future__ import annotations

import pytest

from frolic.errors import CheckpointError
from frolic.eval.table import markdown


def test_each_figure_has_its_line() -> None:
    suites = {
        "two": {"accuracy": 0.7, "n": 200, "parts": {}},
        "background": {"accuracy": 0.9, "n": 200, "parts": {"colour": 0.96}},
    }
    results = {
        "suites": suites,
        "judge": {"ceilings": {"two": {"accuracy": 0.95}}},
        "reconstruction": {"psnr": 27.5, "lpips": 0.1, "n": 64},
        "fid": {"fid": 12.5, "floor": 3.0, "n": 64},
    }
    text = markdown(results)
    assert "| two objects both right | 65.0 % | 70.0 % | 95.0 % | 200 |" in text
    assert "| colour of background | 95.0 % | 96.0 % |  | 200 |" in text
    assert "27.5 dB" in text and "| 12.5 | 3.0 | 64 |" in text
    assert "counting" not in text


def test_something_else_is_refused() -> None:
    with pytest.raises(CheckpointError, match="suite all"):
        markdown({"accuracy": 1})
