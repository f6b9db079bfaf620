"""Whether the text that a prompt quotes can be read."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from frolic.errors import ConfigError, RequestError
from frolic.rewards import make_reward
from frolic.rewards.ocr import Legible, distance, likeness, quoted, rapidocr
from frolic.rewards.registry import RewardSpec


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('a sign that says "open"', "open"),
        ("a sign that says “Fresh Fish”, at dusk", "Fresh Fish"),
        ("« oui » on a wall", " oui "),
        ("a card 'to you' on it", "to you"),
        ("the dog's bone and the cat's tail", ""),
        ('"a" and “b”', "a b"),
        ("nothing", ""),
        ('""', ""),
    ],
)
def test_what_is_quoted(prompt: str, text: str) -> None:
    assert quoted(prompt) == text


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("same", "same", 0), ("ab", "ba", 2)],
)
def test_edit_distance(a: str, b: str, edits: int) -> None:
    assert distance(a, b) == distance(b, a) == edits


def test_likeness_is_of_letters_and_of_all_of_them() -> None:
    assert likeness("Open Now", "OPENNOW") == 1 and likeness("open", "") == 0
    assert likeness("open", "opem") == 0.75
    assert likeness("open", "open" + "x" * 12) == 0.25, "to write everything everywhere does not help"
    assert likeness("open", "x" * 10**6) < 0.01


def test_the_score_is_the_mean_over_frames() -> None:
    read = iter(["open", "opem", "", "open"])
    seen: list[np.ndarray] = []

    def engine(picture: np.ndarray) -> str:
        seen.append(picture)
        return next(read)

    reward = make_reward(RewardSpec("ocr", {"engine": engine}))
    assert isinstance(reward, Legible) and not reward.differentiable and reward.reads_prompt
    x = torch.rand(2, 2, 3, 4, 5)
    assert reward.score(x, ['says "open"', 'says "Open"']).tolist() == [0.875, 0.5]
    assert [picture.shape for picture in seen] == [(4, 5, 3)] * 4 and seen[0].dtype == np.uint8
    assert np.array_equal(seen[2], (x[1, 0].permute(1, 2, 0) * 255).round().numpy())


def test_prompts_that_quote_nothing_are_all_told() -> None:
    reward = Legible(lambda picture: "")
    with pytest.raises(RequestError, match=r"'a cat'; 'the dog's'|\"the dog's\""):
        reward.score(torch.zeros(3, 1, 3, 2, 2), ["a cat", 'a "b"', "the dog's"])


def test_without_a_reader_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rapidocr", "rapidocr_onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'frolic\[ocr\]'"):
        make_reward("ocr")


@pytest.mark.parametrize("found", [([[[], "fresh", 0.9], [[], "fish", 0.8]], 0.1), (None, None)])
def test_the_older_package_is_read_too(monkeypatch: pytest.MonkeyPatch, found: object) -> None:
    class Module:
        class RapidOCR:
            def __call__(self, picture: np.ndarray) -> object:
                assert picture[0, 0].tolist() == [3, 2, 1], "blue first"
                return found

    monkeypatch.setitem(sys.modules, "rapidocr", None)
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", Module)
    picture = np.full((2, 2, 3), (1, 2, 3), np.uint8)
    assert rapidocr()(picture) == ("fresh fish" if found != (None, None) else "")


def test_a_real_reader_reads() -> None:
    pytest.importorskip("rapidocr")
    pytest.importorskip("onnxruntime")
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (256, 128), "white")
    ImageDraw.Draw(picture).text((20, 40), "HELLO fox", fill="black", font=ImageFont.load_default(36))
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None, None] / 255
    clips = torch.cat([x, torch.full_like(x, 0.5)])
    scores = make_reward("ocr").score(clips, ['a sign that says "hello fox"'] * 2)
    assert scores[0] > 0.8 and scores[1] == 0
