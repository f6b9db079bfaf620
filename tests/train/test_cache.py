"""What is made once before a run: kept, and told of, for it takes minutes."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
import torch

from frolic.train.progress import JsonEvents, Lines, heard
from frolic.train.tasks import cache


def test_it_is_made_once_and_what_is_made_is_said(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"x": torch.arange(3.0)}

    said = io.StringIO()
    with heard(Lines(said)):
        first = cache.cached(tmp_path, ["a"], make, "12 pictures")
        again = cache.cached(tmp_path, ["a"], make, "12 pictures")
    assert torch.equal(first["x"], again["x"]) and made == [1]
    assert said.getvalue() == f"12 pictures: made once and kept in {tmp_path}\n"
    cache.cached(tmp_path, ["b"], make, "others")
    assert made == [1, 1] and "others" not in said.getvalue(), "nobody listens any more"
    next(iter(tmp_path.glob("*.safetensors"))).write_bytes(b"damaged")
    for name in ("a", "b"):
        assert torch.equal(cache.cached(tmp_path, [name], make, "12 pictures")["x"], first["x"])
    assert made == [1, 1, 1]


def test_parts_are_counted_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    with heard(JsonEvents(said)):
        assert [*cache.counted(iter("abc"), 5, 2)] == [*"abc"] and not said.getvalue()
        monkeypatch.setattr(cache, "_EVERY", -1.0)
        assert [*cache.counted(iter("abc"), 5, 2)] == [*"abc"]
    messages = [json.loads(line)["message"] for line in said.getvalue().splitlines()]
    assert messages == ["2 of 5", "4 of 5", "5 of 5"]


def test_latents_are_in_order_and_know_no_gradients_however_many_are_made_at_a_time() -> None:
    weight = torch.ones((), requires_grad=True)
    tracked: list[bool] = []

    def encode(x: torch.Tensor) -> torch.Tensor:
        tracked.append((x * weight).requires_grad)
        return x * weight

    def pixels(number: int) -> torch.Tensor:
        time.sleep(0.05 if number == 0 else 0)  # the second is ready before the first
        return torch.arange(5.0)[2 * number : 2 * number + 2]

    for prefetch in (0, 3):
        made = torch.cat([*cache.encoded(pixels, encode, 5, 2, torch.device("cpu"), prefetch)])
        assert made.tolist() == [0, 1, 2, 3, 4] and made.dtype is torch.float16
    assert len(tracked) == 6 and not any(tracked)
