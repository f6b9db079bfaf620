"""A reward that is asked for over HTTP: a scorer that needs another environment, another machine or another language.

The question is a POST of JSON: ``{"schema": 1, "prompts": [B texts], "frames": [B lists of T PNGs in base64]}``. The
answer is ``{"scores": [B numbers]}``.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor

from frolic import __version__
from frolic.errors import ConfigError, NetworkError
from frolic.rewards.base import Base
from frolic.rewards.called import as_bytes, as_scores

SCHEMA = 1
MAX_ANSWER = 4 * 1024 * 1024
_PASSING = (408, 429, 500, 502, 503, 504)
"""What a server answers that may do better the next time."""


class Remote(Base):
    """What a server says of frames and prompts.

    ``timeout``: seconds for one try, from the question to the last byte of the answer. ``pauses``: seconds before each
    further try, where the server cannot be reached, is too slow or busy. Nothing is sent anywhere but to ``address``:
    a redirection is an error. ``name`` leaves out what follows a ``?``, where addresses keep their secrets.

    Raises:
        ConfigError: the address is none.
        NetworkError: no answer, or one that is not as above or is longer than ``MAX_ANSWER`` bytes.
    """

    differentiable = False

    def __init__(self, address: str, timeout: float = 120.0, pauses: Sequence[float] = (0.5, 2.0, 8.0)) -> None:
        super().__init__()
        if problem := wrong_with(address):
            raise ConfigError(f"{address!r} is not the address of a reward: {problem}.")
        parts = urlsplit(address)
        self.name = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self.address = address
        self.timeout = timeout
        self.pauses = tuple(pauses)
        self._opener = urllib.request.build_opener(_Stay)

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        question = json.dumps({"schema": SCHEMA, "prompts": list(prompts), "frames": _pngs(frames_BT3HW)}).encode()
        answer = self._asked(question)
        try:
            scores = json.loads(answer)["scores"]
            if not isinstance(scores, list) or any(type(each) not in (int, float) for each in scores):
                raise ValueError(f"gave back {str(scores)[:80]!r} as scores, which is not a list of numbers")
            found = as_scores(scores, len(prompts))
        except (KeyError, TypeError, RecursionError, json.JSONDecodeError, UnicodeDecodeError):
            raise NetworkError(
                f'The reward {self.name} answered something else than {{"scores": [...]}}: {_start(answer)}'
            ) from None
        except ValueError as error:
            raise NetworkError(f"The reward {self.name} {error}; see docs/rewards.md for what it should.") from None
        return found.to(frames_BT3HW.device)

    def _asked(self, question: bytes) -> bytes:
        for pause in (*self.pauses, None):
            try:
                return self._once(question)
            except _Passing as error:
                if pause is None:
                    tries = len(self.pauses) + 1
                    raise NetworkError(f"The reward {self.name} gave no answer in {tries} tries: {error}.") from error
                time.sleep(pause)
        raise AssertionError("the last try raises")

    def _once(self, question: bytes) -> bytes:
        """One try. Raises ``_Passing`` where another one may help, NetworkError where none does."""
        headers = {"Content-Type": "application/json", "User-Agent": f"frolic/{__version__}"}
        request = urllib.request.Request(self.address, data=question, headers=headers, method="POST")
        until = time.monotonic() + self.timeout
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return self._read(response, until)
        except urllib.error.HTTPError as error:
            with error:
                try:
                    said = _start(error.read(2000))
                except (OSError, http.client.HTTPException):  # why it refuses is not worth another error
                    said = ""
            if error.code in _PASSING:
                raise _Passing(f"it says {error.code} ({said})") from error
            if error.code in (301, 302, 303, 307, 308):
                there = error.headers.get("Location", "")
                raise NetworkError(f"The reward {self.name} is elsewhere; give its own address, {there}.") from None
            raise NetworkError(f"The reward {self.name} refuses with {error.code}: {said}") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise NetworkError(
                    f"The certificate of {self.name} is not trusted here ({error.reason.verify_message})."
                ) from error
            raise _Passing(str(getattr(error.reason, "strerror", None) or error.reason).lower()) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Passing(str(error) or type(error).__name__) from error

    def _read(self, response: Any, until: float) -> bytes:
        """The body. Piece by piece, because a socket's own limit starts anew with every byte."""
        answer = bytearray()
        while piece := response.read1(1 << 16):
            answer += piece
            if len(answer) > MAX_ANSWER:
                raise NetworkError(
                    f"The reward {self.name} answers more than {MAX_ANSWER:,} bytes; let it send scores and no more."
                )
            if time.monotonic() > until:
                raise TimeoutError("its answer takes too long")
        if response.length:
            # What was promised and has not come: ``read1`` calls that an ordinary end.
            raise _Passing("its answer was cut short")
        return bytes(answer)


def wrong_with(address: str) -> str:
    """What is wrong with an address, or an empty string."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:
        return str(error).lower()
    if any(not char.isprintable() or char == " " for char in address):
        return "it has spaces or control characters"
    if not address.isascii():
        return "it has letters beyond ASCII, which are written as %C3%A9"
    if not parts.hostname:
        return "it names no host"
    if parts.username is not None:
        return "a user's name or password in it would not be sent"
    return "" if not parts.fragment else "what follows # is not sent"


class _Passing(Exception):
    """Another try may help."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """The standard library would repeat a POST elsewhere as a GET, without what was asked."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def _pngs(frames_BT3HW: Tensor) -> list[list[str]]:
    from PIL import Image

    from frolic.io.media import encode_png

    return [
        [base64.b64encode(encode_png(Image.fromarray(frame))).decode("ascii") for frame in clip]
        for clip in as_bytes(frames_BT3HW)
    ]


def _start(body: bytes) -> str:
    text = body[:200].decode("utf-8", "replace").strip()
    return (text if len(body) <= 200 else f"{text} ...") or "nothing"
