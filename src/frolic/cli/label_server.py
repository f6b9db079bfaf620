"""The page of ``frolic reward label``: two pictures, and keys to choose with. It serves this machine only.

Every address begins with a random token, which other pages in the same browser cannot know, and pictures are named by
their numbers, never by paths.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from frolic.data.asking import Asking
from frolic.errors import FrolicError, RequestError

HOST = "127.0.0.1"
_MOST = 1000
_KINDS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/mp4",
}
_MEDIA = re.compile(r"media/(\d{1,9})/(left|right)")


class LabelServer(ThreadingHTTPServer):
    """Serves ``asking`` at ``address`` until it is shut down, by the page's button or otherwise."""

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, asking: Asking, port: int = 0) -> None:
        """``port`` 0 is any that is free.

        Raises:
            RequestError: the port is taken or not ours to use.
        """
        self.asking = asking
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise RequestError(f"Port {port} of {HOST} cannot be served ({error}); choose another --port.") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is nothing to report."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer
    server_version, sys_version = "frolic", ""
    timeout = 30

    def do_GET(self) -> None:
        asking, name = self.server.asking, self._name()
        if name is None:
            return
        if name == "":
            self._page()
        elif name == "state":
            self._json(self._state())
        elif (match := _MEDIA.fullmatch(name)) and int(match[1]) < len(asking.questions):
            path = asking.file(int(match[1]), match[2])
            try:
                data = path.read_bytes()
            except OSError:
                self._refuse(HTTPStatus.NOT_FOUND)
                return
            self._send(HTTPStatus.OK, _KINDS.get(path.suffix.lower(), "application/octet-stream"), data)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        name = self._name()
        if name is None:
            return
        body = self._body()
        if body is None:
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        try:
            if name == "choice" and type(body.get("pair")) is int and isinstance(body.get("choice"), str):
                self.server.asking.answer(body["pair"], body["choice"])
            elif name == "undo":
                self.server.asking.undo()
            elif name != "finish":
                self._refuse(HTTPStatus.BAD_REQUEST if name == "choice" else HTTPStatus.NOT_FOUND)
                return
        except FrolicError as error:
            status = HTTPStatus.CONFLICT if isinstance(error, RequestError) else HTTPStatus.INTERNAL_SERVER_ERROR
            self._json({**self._state(), "error": str(error)}, status)
            return
        self._json(self._state())
        if name == "finish":
            # Not from this thread's own server loop: each request has a thread, so this does not wait for itself.
            self.server.shutdown()

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is for the user."""

    def _name(self) -> str | None:
        """What comes after the token; refuses other hosts' names and addresses without the token."""
        port = self.server.server_address[1]
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._refuse(HTTPStatus.FORBIDDEN)  # a page of elsewhere whose name was made to mean this machine
            return None
        _, token, *rest = [*self.path.split("/", 2), ""][:3]
        if not hmac.compare_digest(token.encode(), self.server.token.encode()) or self.path.count("/") < 2:
            self._refuse(HTTPStatus.NOT_FOUND)
            return None
        return rest[0]

    def _body(self) -> dict[str, Any] | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MOST or self.headers.get("Content-Type") != "application/json":
            return None
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            return None
        return body if isinstance(body, dict) else None

    def _state(self) -> dict[str, Any]:
        asking = self.server.asking
        number = asking.current
        state: dict[str, Any] = {
            "pair": number,
            "chosen": asking.before + asking.chosen,
            "left_over": len(asking.questions) - (number if number is not None else len(asking.questions)),
            "undo": asking.can_undo,
        }
        if number is not None:
            state["prompt"] = asking.questions[number].prompt
            for side in ("left", "right"):
                kind = _KINDS.get(asking.file(number, side).suffix.lower(), "")
                state[side] = {"source": f"media/{number}/{side}", "clip": kind.startswith("video/")}
        return state

    def _page(self) -> None:
        nonce = secrets.token_urlsafe(12)
        text = resources.files("frolic.cli").joinpath("label.html").read_text("utf-8").replace("NONCE", nonce)
        policy = (
            f"default-src 'none'; img-src 'self'; media-src 'self' blob:; connect-src 'self'; "
            f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", text.encode(), {"Content-Security-Policy": policy})

    def _json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True
        self._send(status, "text/plain; charset=utf-8", status.phrase.encode())

    def _send(self, status: HTTPStatus, kind: str, data: bytes, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            **(more or {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
