from __future__ import annotations

import threading
import time

import pytest
import torch

from frolic.train.batches import ahead


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_everything_once_and_in_order(prefetch: int) -> None:
    made: list[int] = []

    def make(number: int) -> int:
        time.sleep(0.002 * (number % 3))  # later ones are done first
        made.append(number)
        return number**2

    assert list(ahead(make, 3, 15, prefetch)) == [number**2 for number in range(3, 15)]
    assert sorted(made) == list(range(3, 15))
    assert list(ahead(make, 5, 5, prefetch)) == []


def test_several_are_prepared_at_a_time_each_with_one_core() -> None:
    both, before = threading.Barrier(2, timeout=30), torch.get_num_threads()

    def make(number: int) -> int:
        both.wait()
        return torch.get_num_threads()

    assert list(ahead(make, 0, 6, 2)) == [1] * 6
    assert torch.get_num_threads() == before


def test_an_error_comes_at_its_place_and_nothing_is_left_running() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    found = ahead(make, 0, 1000, 2)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(found)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("frolic-batches")]
