"""Rewards that are asked for over HTTP, of a server on this machine's loopback."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from frolic.errors import ConfigError, NetworkError
from frolic.rewards import make_reward
from frolic.rewards.called import as_bytes
from frolic.rewards.registry import RewardSpec
from frolic.rewards.remote import MAX_ANSWER

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


class Scorer:
    """A server; ``answer`` decides what it says, ``asked`` keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.answer: Answer = mean_red
        self.piece, self.pause = 1 << 20, 0.0
        self.promised = 0
        scorer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                scorer.paths.append(self.path)
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                scorer.asked.append(question)
                code, body = scorer.answer(question)
                if code == 0:
                    return  # hangs up
                self.send_response(code)
                if scorer.promised:
                    self.send_header("Content-Length", str(scorer.promised))
                if code == 302:
                    self.send_header("Location", "http://example.invalid/elsewhere")
                self.end_headers()
                try:
                    for start in range(0, len(body), scorer.piece):
                        self.wfile.write(body[start : start + scorer.piece])
                        time.sleep(scorer.pause)
                except OSError:
                    pass  # whoever asked has heard enough

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


def scores(values: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"scores": values}).encode()


def mean_red(question: dict[str, Any]) -> tuple[int, bytes]:
    clips = [[Image.open(io.BytesIO(base64.b64decode(frame))) for frame in clip] for clip in question["frames"]]
    return scores([float(np.mean([np.asarray(frame)[..., 0].mean() for frame in clip])) for clip in clips])


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scorer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Scorer()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()


def clips() -> torch.Tensor:
    return torch.rand(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(1))


def quick(address: str, **options: Any) -> Any:
    return make_reward(RewardSpec(address, {"pauses": (0.01, 0.01), "timeout": 5, **options}))


def test_it_is_sent_the_frames_to_the_byte(scorer: Scorer) -> None:
    reward = quick(f"{scorer.address}/score?key=secret")
    found = reward.score(clips(), ["a", "b"])
    torch.testing.assert_close(found, (clips()[:, :, 0] * 255).round().mean(dim=(1, 2, 3)))
    assert found.dtype == torch.float32 and not reward.differentiable
    (question,) = scorer.asked
    assert question["prompts"] == ["a", "b"] and question["schema"] == 1
    frame = np.asarray(Image.open(io.BytesIO(base64.b64decode(question["frames"][1][2]))))
    assert np.array_equal(frame, as_bytes(clips())[1, 2])
    assert scorer.paths == ["/score?key=secret"] and "secret" not in reward.name


@pytest.mark.parametrize("code", [0, 429, 503])
def test_what_passes_is_tried_again(scorer: Scorer, code: int) -> None:
    scorer.answer = lambda question: (code, b"busy") if len(scorer.asked) < 3 else scores([1, 2])
    assert quick(scorer.address).score(clips(), ["", ""]).tolist() == [1, 2]
    assert len(scorer.asked) == 3
    scorer.asked.clear()
    scorer.answer = lambda question: (code, b"busy")
    with pytest.raises(NetworkError, match=r"no answer in 3 tries: " + ("it says" if code else "")):
        quick(scorer.address).score(clips(), ["", ""])
    assert len(scorer.asked) == 3


@pytest.mark.parametrize("code", [200, 503])
def test_an_answer_that_is_cut_short_is_asked_for_again(scorer: Scorer, code: int) -> None:
    def answer(question: dict[str, Any]) -> tuple[int, bytes]:
        scorer.promised = 1000 if len(scorer.asked) < 3 else 0
        return (code, b'{"scores": [1,') if scorer.promised else scores([1, 2])

    scorer.answer = answer
    assert quick(scorer.address).score(clips(), ["", ""]).tolist() == [1, 2]
    assert len(scorer.asked) == 3


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (400, b"no such model", "refuses with 400: no such model"),
        (302, b"", "is elsewhere; give its own address, http://example.invalid/elsewhere"),
        (200, b"<html>", 'something else than .*"scores".*<html>'),
        (200, b"\xff\xfe", "something else than"),
        (200, b"[1, 2]", "something else than"),
        (200, b'{"score": [1, 2]}', "something else than"),
        (200, b'{"scores": [1, "2"]}', "not a list of numbers"),
        (200, b'{"scores": [1, true]}', "not a list of numbers"),
        (200, b'{"scores": 1}', "not a list of numbers"),
        (200, b'{"scores": [1, 2, 3]}', "gave back 3 numbers for 2 clips"),
        (200, b'{"scores": [1, 1' + b"0" * 400 + b"]}", "not 2 numbers"),
        (200, b"[" * 100_000, "something else than"),
    ],
)
def test_what_does_not_pass_is_told_at_once(scorer: Scorer, code: int, body: bytes, said: str) -> None:
    scorer.answer = lambda question: (code, body)
    with pytest.raises(NetworkError, match=said):
        quick(scorer.address).score(clips(), ["", ""])
    assert len(scorer.asked) == 1


def test_what_is_not_finite_is_left_to_who_asked(scorer: Scorer) -> None:
    scorer.answer = lambda question: (200, b'{"scores": [NaN, 1]}')
    assert torch.isfinite(quick(scorer.address).score(clips(), ["", ""])).tolist() == [False, True]


def test_an_answer_has_an_end(scorer: Scorer) -> None:
    scorer.answer = lambda question: (200, b" " * (MAX_ANSWER + (8 << 20)))
    with pytest.raises(NetworkError, match="more than 4,194,304 bytes"):
        quick(scorer.address).score(clips(), ["", ""])


def test_a_slow_server_is_not_waited_for(scorer: Scorer) -> None:
    def slow(question: dict[str, Any]) -> tuple[int, bytes]:
        time.sleep(1)
        return scores([1, 2])

    scorer.answer = slow
    with pytest.raises(NetworkError, match=r"no answer in 1 tries: .*timed out"):
        quick(scorer.address, timeout=0.1, pauses=()).score(clips(), ["", ""])


def test_an_answer_that_comes_drop_by_drop_is_not_waited_for(scorer: Scorer) -> None:
    scorer.answer = lambda question: (200, b" " * 100)
    scorer.piece, scorer.pause = 1, 0.02
    with pytest.raises(NetworkError, match="in 1 tries: its answer takes too long"):
        quick(scorer.address, timeout=0.2, pauses=()).score(clips(), ["", ""])


def test_a_server_that_is_not_there(scorer: Scorer) -> None:
    scorer.server.server_close()
    with pytest.raises(NetworkError, match=r"no answer in 3 tries: .*refused"):
        quick(scorer.address).score(clips(), ["", ""])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http:///x", "no host"),
        ("http://host:port/x", "port"),
        ("http://me:word@host/x", "password"),
        ("http://host/a b", "spaces"),
        ("http://host/é", "ASCII"),
        ("https://host/x#y", "#"),
    ],
)
def test_what_is_no_address_is_refused(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_reward(address)
