"""A browser plays what is written."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest

from clips import clip, record
from frolic.io import video

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGE = b"""<!doctype html><video muted></video><script>
const video = document.querySelector("video");
const said = what => fetch("/said", {method: "POST", body: JSON.stringify({what, duration: video.duration,
  at: video.currentTime, width: video.videoWidth, height: video.videoHeight,
  error: video.error && video.error.message})});
video.onerror = () => said("error");
video.onended = () => said("ended");
// A clip can be over before the promise of its playing is kept, which then is broken by its end: "ended" is said too.
video.onloadedmetadata = () => video.play().catch(error => video.ended || said(String(error)));
video.src = "/film.mp4";
</script>"""


@contextmanager
def site(film: Path) -> Iterator[tuple[str, Queue[dict[str, Any]]]]:
    """A page that plays ``film`` and says how it went."""
    heard: Queue[dict[str, Any]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, kind = (film.read_bytes(), "video/mp4") if self.path == "/film.mp4" else (PAGE, "text/html")
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            heard.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", heard
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize(("frames", "fps", "seconds"), [(17, 8, 2.125), (1, 16, 0.0625), (9, 24, 0.375)])
def test_an_mp4_plays_to_its_end_and_is_as_long_as_it_should(
    tmp_path: Path, frames: int, fps: float, seconds: float
) -> None:
    assert BROWSER is not None
    video.save_video(clip(frames), tmp_path / "film.mp4", fps=fps, record=record())
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required")
    with site(tmp_path / "film.mp4") as (address, heard):
        browser = subprocess.Popen(
            [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            said = heard.get(timeout=60)
        except Empty:
            pytest.fail("the browser said nothing")
        finally:
            browser.kill()
            browser.wait()
    assert said["what"] == "ended", said
    assert (said["width"], said["height"]) == (64, 48)
    assert abs(said["duration"] - seconds) < 0.002 and abs(said["at"] - seconds) < 0.002
