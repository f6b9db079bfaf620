"""The preference that ships with frolic."""

from __future__ import annotations

import torch

from frolic.rewards import make_reward


def test_the_shipped_one_likes_warm_colours() -> None:
    fun = make_reward("fun")
    assert fun.name == "fun" and fun.differentiable and fun.marks
    colours = torch.tensor([[0.95, 0.45, 0.1], [0.2, 0.3, 0.9], [0.6, 0.6, 0.6]])
    frames = torch.ones(3, 1, 3, 96, 96)
    frames[:, :, :, 24:72, 24:72] = colours[:, None, :, None, None]
    warm, cold, grey = fun.score(frames, ["a ball"] * 3).tolist()
    assert warm > cold and warm > grey
