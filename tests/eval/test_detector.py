from __future__ import annotations

import pytest
import torch

from frolic.eval import detector
from frolic.eval.detector import GRID, DetectorNet, decode, targets

BOXES = [[(0.1, 0.1, 0.4, 0.5), (0.55, 0.5, 0.95, 0.9)], [(0.3, 0.3, 0.7, 0.7)], []]


def perfect(boxes: list[list[tuple[float, float, float, float]]]) -> torch.Tensor:
    heat, numbers, _ = targets(boxes)
    return torch.cat([torch.logit(heat * 0.98 + 0.001)[:, None], numbers], 1)


def test_decoding_undoes_the_targets() -> None:
    found = decode(perfect(BOXES))
    assert [len(things) for things in found] == [2, 1, 0]
    for things, boxes in zip(found, BOXES, strict=True):
        seen = sorted(thing.box for thing in things)
        assert [edge for box in seen for edge in box] == pytest.approx(
            [edge for box in boxes for edge in box], abs=1e-4
        )


def test_one_box_a_thing() -> None:
    said = perfect([[(0.2, 0.2, 0.8, 0.8)]])
    said[0, :, GRID // 2, GRID // 2 + 2] = said[0, :, GRID // 2, GRID // 2]
    assert len(decode(said)[0]) == 1


def test_the_loss_is_least_for_what_is_true() -> None:
    heat, numbers, counts = targets(BOXES)
    right = detector.loss(perfect(BOXES), heat, numbers, counts)
    moved = detector.loss(perfect([BOXES[1], BOXES[0], []]), heat, numbers, counts)
    assert right < 0.3 < moved


def test_shapes_and_size() -> None:
    said, ground = DetectorNet()(torch.zeros(2, 3, detector.SIDE, detector.SIDE))
    assert said.shape == (2, 5, GRID, GRID) and ground.shape == (2, 6)
    assert sum(parameter.numel() for parameter in DetectorNet().parameters()) < 1_100_000
