"""Rewards that are Python functions of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from frolic.errors import ConfigError, FileError
from frolic.rewards import make_reward
from frolic.rewards.called import Called, as_bytes

SCORER = """
import numpy as np
from frolic.errors import RequestError
SEEN = []

def reds(frames, prompts):
    SEEN.append((frames.dtype, frames.shape, frames.flags["C_CONTIGUOUS"], prompts))
    return [float(clip[..., 0].mean()) for clip in frames]

class Kept:
    @staticmethod
    def lengths(frames, prompts):
        return np.array([len(prompt) for prompt in prompts])

def fails(frames, prompts): raise KeyError("no such thing")
def refuses(frames, prompts): raise RequestError("Not these.")
def short(frames, prompts): return [1.0]
def text(frames, prompts): return "ab"
def nothing(frames, prompts): return None
def bad(frames, prompts): return [0.0, float("nan")]
def large(frames, prompts): return [0.0, 1e300]
number = 3
"""


@pytest.fixture
def scorer(tmp_path: Path) -> Path:
    path = tmp_path / "scorer.py"
    path.write_text(SCORER)
    return path


def clips() -> torch.Tensor:
    return torch.rand(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(1))


def test_it_gets_what_a_file_would_hold_and_gives_a_number_a_clip(scorer: Path) -> None:
    reward = make_reward(f"python:{scorer}:reds")
    assert isinstance(reward, Called) and not reward.differentiable and reward.name == f"python:{scorer}:reds"
    x = clips()
    scores = reward.score(x, ["a", "b"])
    seen = reward.function.__globals__["SEEN"]  # type: ignore[attr-defined]
    assert seen == [(np.uint8, (2, 3, 4, 5, 3), True, ["a", "b"])]
    expected = (x[:, :, 0] * 255).round().mean(dim=(1, 2, 3))
    torch.testing.assert_close(scores, expected)
    assert scores.dtype == torch.float32


def test_an_attribute_of_a_class_and_an_array_will_do(scorer: Path) -> None:
    reward = make_reward(f"python:{scorer}:Kept.lengths")
    assert reward.score(clips(), ["a", "bcd"]).tolist() == [1, 3]


def test_a_module_will_do(scorer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer.rename(scorer.with_name("frolic_test_scorer.py"))
    monkeypatch.syspath_prepend(scorer.parent)
    assert make_reward("python:frolic_test_scorer:reds").score(torch.ones(1, 1, 3, 2, 2), [""]).tolist() == [255]


def test_bytes_are_rounded_and_kept_in_range() -> None:
    x = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 2.0]).view(1, 1, 1, 1, 6).expand(1, 1, 3, 1, 6)
    assert as_bytes(x)[0, 0, 0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [
        ("fails", ConfigError, "failed.*KeyError.*no such thing"),
        ("short", ConfigError, "gave back 1 numbers for 2 clips"),
        ("text", ConfigError, "'ab', which is not 2 numbers"),
        ("nothing", ConfigError, "'None', which is not 2 numbers"),
        ("refuses", ConfigError.__bases__[0], "^Not these.$"),
    ],
)
def test_what_goes_wrong_is_told_by_name(scorer: Path, function: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        make_reward(f"python:{scorer}:{function}").score(clips(), ["", ""])


@pytest.mark.parametrize("function", ["bad", "large"])
def test_what_is_not_finite_is_left_to_who_asked(scorer: Path, function: str) -> None:
    """Training leaves such a clip out and counts it; a table of scores names it (``Combined.apart``)."""
    scores = make_reward(f"python:{scorer}:{function}").score(clips(), ["", ""])
    assert torch.isfinite(scores).tolist() == [True, False]


@pytest.mark.parametrize(
    ("address", "kind", "said"),
    [
        ("python:SCORER:none", ConfigError, "no function none"),
        ("python:SCORER:number", ConfigError, "no function number"),
        ("python:FOLDER/other.py:f", FileError, "no file .*other.py"),
        ("python:frolic_is_no_module:f", ConfigError, "no module frolic_is_no_module.*PYTHONPATH"),
        ("python:scorer", ConfigError, "is not python:MODULE:FUNCTION"),
        ("python::f", ConfigError, "is not python:MODULE:FUNCTION"),
        ("python:scorer:a b", ConfigError, "is not python:MODULE:FUNCTION"),
    ],
)
def test_what_is_not_there_is_told(scorer: Path, address: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        make_reward(address.replace("SCORER", str(scorer)).replace("FOLDER", str(scorer.parent)))


def test_a_file_that_does_not_run_is_told(scorer: Path) -> None:
    scorer.write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"cannot be imported.*ZeroDivisionError"):
        make_reward(f"python:{scorer}:f")


def test_a_file_may_hold_dataclasses_and_lie_at_home(scorer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Scale:\n"
        "    by: float = 2.0\n\ndef score(frames, prompts):\n    return [Scale().by] * len(prompts)\n"
    )
    monkeypatch.setenv("HOME", str(scorer.parent))
    assert make_reward("python:~/scorer.py:score").score(clips(), ["", ""]).tolist() == [2, 2]
    # Another file of that name is another module.
    (scorer.parent / "b").mkdir()
    (scorer.parent / "b" / "scorer.py").write_text("def score(frames, prompts): return [3.0] * len(prompts)")
    assert make_reward(f"python:{scorer.parent}/b/scorer.py:score").score(clips(), [""] * 2).tolist() == [3, 3]
    assert make_reward(f"python:{scorer}:score").score(clips(), ["", ""]).tolist() == [2, 2]
