"""Several rewards as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from frolic.errors import ConfigError, NumericsError
from frolic.rewards import Combined, Reward, make_reward
from frolic.rewards.called import Called
from frolic.rewards.combine import Scale


class Given:
    """A reward that is no module, which gives what it was told to."""

    differentiable, least_frames = True, 2

    def __init__(self, name: str, values: Sequence[float]) -> None:
        self.name, self.values, self.marks = name, torch.tensor(values), {"file": name * 2}

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.values


A, B = Given("a", [1.0, 2.0, 4.0]), Given("b", [30.0, 20.0, 20.0])
FRAMES = torch.zeros(3, 1, 3, 2, 2)
PROMPTS = ["", "", ""]


def scored(*arguments: Any, **options: Any) -> list[float]:
    return Combined(*arguments, **options).score(FRAMES, PROMPTS).tolist()


def test_sum_divides_by_deviations() -> None:
    scales = [Scale(1.0, 2.0), Scale(20.0, 5.0)]
    assert scored([A, B], [1.0, 0.5], scales=scales) == [0 + 1.0, 0.5, 1.5]
    assert scored([A, B], [1.0, -1.0], scales=scales) == [-2.0, 0.5, 1.5]


def test_one_alone_is_what_it_is() -> None:
    assert scored([A]) == [1, 2, 4] and scored([A], [-2.0]) == [-2, -4, -8]
    assert Combined([A]).name == "a"


def test_min_buys_none_with_another() -> None:
    scales = [Scale(1.0, 1.0), Scale(20.0, 5.0)]
    assert scored([A, B], mode="min", scales=scales) == [0, 0, 0]
    assert scored([A, B], [1.0, -1.0], mode="min", scales=scales) == [-2, 0, 0]


def test_rank_is_of_the_batch() -> None:
    assert scored([A, B], mode="rank", black_box=True) == pytest.approx([0.5, 0.375, 0.625])
    assert scored([A, B], [3.0, 1.0], mode="rank", black_box=True) == pytest.approx([0.25, 0.4375, 0.8125])
    one = Combined([Given("c", [7.0])], mode="rank", black_box=True)
    assert one.score(FRAMES[:1], [""]).tolist() == [0.5]


def test_scales_are_measured_once() -> None:
    combined = Combined([A, B])
    scores = combined.apart(FRAMES, PROMPTS)
    assert scores.tolist() == [[1, 2, 4], [30, 20, 20]]
    ready = combined.measured(scores)
    assert ready.scales is not None
    assert ready.scales[0].centre == pytest.approx(7 / 3) and ready.scales[1].deviation == pytest.approx(5.773503)
    whole = ready.together(scores)
    assert float(whole.mean()) == pytest.approx(0, abs=1e-5)
    for clip in range(3):
        torch.testing.assert_close(ready.together(scores[:, clip : clip + 1]), whole[clip : clip + 1])


def test_what_does_not_vary_cannot_be_weighed() -> None:
    with pytest.raises(ConfigError, match="reward c gives 5 to all of 3 clips"):
        Combined([A, Given("c", [5.0] * 3)]).measured(torch.tensor([[1.0, 2, 4], [5.0, 5, 5]]))
    with pytest.raises(ConfigError, match="two or more"):
        Combined([A]).measured(torch.tensor([[1.0]]))


def test_it_says_what_its_parts_say() -> None:
    combined = Combined([A, make_reward("vivid"), B], [1.0, 0.5, 1.0], scales=[Scale()] * 3)
    assert isinstance(combined, Reward) and combined.name == "sum(a, 0.5 vivid, b)"
    assert combined.least_frames == 2 and combined.marks == {"a/file": "aa", "b/file": "bb"}
    assert combined.differentiable and combined.reads_prompt
    assert not Combined([make_reward("vivid"), make_reward("sharp")], scales=[Scale()] * 2).reads_prompt
    assert not Combined([A], mode="rank", black_box=True).differentiable
    assert not Combined([Called("python:a:b", lambda frames, prompts: [])]).differentiable


def test_gradients_go_through_the_sum_and_the_least() -> None:
    parts = [make_reward("bright"), make_reward("vivid")]
    x = torch.rand(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    alone = [torch.autograd.grad(part.score(x, ["", ""]).sum(), x)[0] for part in parts]
    combined = Combined(parts, [1.0, 3.0], scales=[Scale(), Scale(0, 2)])
    (slope,) = torch.autograd.grad(combined.score(x, ["", ""]).sum(), x)
    torch.testing.assert_close(slope, alone[0] + 1.5 * alone[1])
    least = Combined(parts, mode="min", scales=[Scale(100.0), Scale()])
    (slope,) = torch.autograd.grad(least.score(x, ["", ""]).sum(), x)
    torch.testing.assert_close(slope, alone[0])


@pytest.mark.parametrize("mode", ["sum", "min", "rank"])
def test_what_is_not_finite_is_told_by_name(mode: str) -> None:
    scales = [Scale(), Scale()]
    with pytest.raises(NumericsError, match=r"The reward c gave no finite number for 2 of 3 clips \(number 1, 3\)"):
        scored([A, Given("c", [float("nan"), 1.0, float("inf")])], mode=mode, scales=scales, black_box=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([],), "there are none"),
        (([A], [1.0, 2.0]), "2 weights for 1"),
        (([A], [0.0]), "other than 0"),
        (([A], [float("nan")]), "other than 0"),
        (([A], None, "most"), "by sum, min or rank, not by 'most'"),
        (([A, B], [1.0, 0.5], "min"), "not weighed"),
        (([A, B], None, "rank"), "objectives without gradients only"),
        (([A, B], None, "sum", [Scale()]), "1 scales for 2"),
        (([A], None, "sum", [Scale(0, 0)]), "a deviation of 0"),
    ],
)
def test_what_cannot_be_combined_is_refused(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Combined(*arguments)
