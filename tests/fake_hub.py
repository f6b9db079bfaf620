"""A small Hub on the loopback interface: what ``huggingface_hub`` and frolic ask one for, and the ways it can fail.

Asked are ``/api/models/REPO/revision/REV?blobs=true`` (commit, files with size and hash) and
``/REPO/resolve/COMMIT/PATH`` (bytes, also a range of them).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

LARGE = 4096
"""Files from this size on are listed as LFS files, with a SHA-256."""


class FakeHub:
    """``repos[name][revision]`` is a commit (a commit is one too), ``trees[commit]`` its files. The rest are failures
    to act out."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.repos: dict[str, dict[str, str]] = {}
        self.trees: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.cut: dict[str, int] = {}  # path -> close the connection after so many bytes, once
        self.sha: object = ""  # what listings give as the commit, where it is not the commit
        self.stall: dict[str, int] = {}  # path -> fall silent after so many bytes, once
        self.spoil: dict[str, int] = {}  # path -> send wrong bytes so many times
        self.status: list[int] = []  # answer the next downloads so
        self.ignore_ranges = False
        self.elsewhere = False  # send downloads to another host name, as the Hub does with large files
        self.tokens: list[tuple[str, str]] = []  # host asked and the token it was shown

    def reset(self) -> None:
        """Forget everything."""
        self.__init__(self.url)  # type: ignore[misc]

    def publish(self, repo: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Add a commit and point ``revision`` at it."""
        commit = hashlib.sha1(repr((repo, sorted(files.items()))).encode()).hexdigest()
        self.repos.setdefault(repo, {})[revision] = commit
        self.repos[repo][commit] = commit
        self.trees[commit] = files
        return commit

    def publish_folder(self, repo: str, folder: Path) -> str:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return self.publish(repo, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    def downloads(self) -> list[str]:
        """Paths of the files that were asked for, in order."""
        return [path.split("/", 5)[5] for path, _ in self.requests if "/resolve/" in path]

    def commit(self, repo: str, revision: str) -> str | None:
        return self.repos[repo].get(revision)


@contextlib.contextmanager
def serving() -> Iterator[FakeHub]:
    hub = FakeHub("")

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((path, self.headers.get("Range", "")))
        self.hub.tokens.append((self.headers["Host"].split(":")[0], self.headers.get("Authorization", "")))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._listing(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        else:
            self._refuse(404, "")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _commit(self, repo: str, revision: str) -> str | None:
        if repo not in self.hub.repos:
            self._refuse(401, "RepoNotFound")
            return None
        commit = self.hub.commit(repo, revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        return commit

    def _listing(self, repo: str, revision: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        siblings = [_sibling(path, data) for path, data in self.hub.trees[commit].items()]
        sha = commit if self.hub.sha == "" else self.hub.sha
        body = {
            "id": repo,
            "sha": sha,
            "siblings": siblings,
            "cardData": {"license": "apache-2.0"},
        }
        data = json.dumps({**body, "gated": "manual" if repo in self.hub.gated else False, "private": False}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _file(self, repo: str, revision: str, path: str) -> None:
        hub = self.hub
        if repo in hub.gated:
            return self._refuse(403, "GatedRepo")
        if hub.status:
            return self._refuse(hub.status.pop(0), "")
        commit = self._commit(repo, revision)
        if commit is None:
            return None
        if hub.elsewhere and not self.headers["Host"].startswith("localhost"):
            self.send_response(302)
            self.send_header("Location", hub.url.replace("127.0.0.1", "localhost") + self.path)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        data = hub.trees[commit].get(path)
        if data is None:
            return self._refuse(404, "EntryNotFound")
        etag = _sibling(path, data)
        if hub.spoil.get(path, 0):
            hub.spoil[path] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and not hub.ignore_ranges:
            start = int(asked[1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{etag["lfs"]["sha256"] if "lfs" in etag else etag["blobId"]}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        if path in hub.cut:
            self.wfile.write(body[: hub.cut.pop(path)])
            self.close_connection = True
        elif path in hub.stall:
            self.wfile.write(body[: hub.stall.pop(path)])
            self.wfile.flush()
            time.sleep(0.5)
            self.close_connection = True
        elif self.command == "GET":
            self.wfile.write(body)
        return None


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git}
    if len(data) >= LARGE:
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def prepare(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty ``hub``, make this process believe that it is the real one, and give it an empty ``cache``."""
    hub.reset()
    for key in ("HF_HUB_OFFLINE", "FROLIC_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(key, raising=False)
    # The library reads its environment once, when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.15")
    monkeypatch.setattr("frolic.io.transfer._PAUSES", (0.0,) * 3)
