"""The page to choose on, and what it leaves on the disk."""

from __future__ import annotations

import http.client
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from frolic.cli import label_server
from frolic.cli.label_server import LabelServer
from frolic.data.asking import Asking, Question, open_asked, questions_from, rows_of
from frolic.data.lines import Lines
from frolic.data.pairs import parse
from frolic.errors import FileError, RequestError
from frolic.io.media import read_record
from tiny import write_tiny_folder

Command = Callable[..., Any]


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """Four pictures that say nothing of their prompts, and what is none."""
    folder = tmp_path / "shown"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("secret")
    return folder


@contextmanager
def serving(folder: Path, pictures: Path) -> Iterator[tuple[LabelServer, Callable[..., tuple[int, Any]]]]:
    """The server on a thread, and a function that asks it: ``(name, body, **headers) -> status, JSON or bytes``."""
    folder.mkdir(exist_ok=True)
    asking = Asking(folder, questions_from(pictures, folder)[0])
    server = LabelServer(asking)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    def ask(name: str, body: Any = None, path: str | None = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
        data = None if body is None else json.dumps(body)
        sent = {**({} if body is None else {"Content-Type": "application/json"}), **headers}
        connection.request("GET" if body is None else "POST", path or f"/{server.token}/{name}", data, sent)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        kind = answer.headers["Content-Type"]
        return answer.status, json.loads(content) if kind == "application/json" else content

    try:
        yield server, ask
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        asking.close()


def rows(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def test_choices_are_kept_at_once_undone_and_never_asked_twice(tmp_path: Path, shown: Path) -> None:
    out = tmp_path / "out"
    with serving(out, shown) as (_, ask):
        _, state = ask("state")
        assert (state["pair"], state["chosen"], state["left_over"], state["undo"]) == (0, 0, 4, False)
        assert ask("choice", {"pair": 0, "choice": "left"})[1]["pair"] == 1
        assert ask("choice", {"pair": 1, "choice": "equal"})[1]["pair"] == 2
        assert [row["choice"] for row in rows(out)] == ["left", "equal"]
        assert all((out / row[side]).is_file() for row in rows(out) for side in ("left", "right"))
        # A second press of the same key belongs to the pair that is gone.
        status, state = ask("choice", {"pair": 1, "choice": "right"})
        assert status == 409 and state["pair"] == 2 and len(rows(out)) == 2
        assert ask("choice", {"pair": 2, "choice": "skip"})[1]["pair"] == 3
        assert ask("undo", {})[1]["pair"] == 2 and len(rows(out)) == 2, "a skip left nothing to take away"
        assert ask("undo", {})[1]["pair"] == 1 and [row["choice"] for row in rows(out)] == ["left"]
        assert ask("choice", {"pair": 1, "choice": "right"})[1]["chosen"] == 2
        ask("choice", {"pair": 2, "choice": "skip"})
    first = rows(out)
    with serving(out, shown) as (_, ask):
        _, state = ask("state")
        assert (state["chosen"], state["left_over"], state["undo"]) == (2, 2, False), "what was skipped comes again"
        assert ask("undo", {})[0] == 200 and rows(out) == first, "choices of before stay"
        for pair in range(2):
            ask("choice", {"pair": pair, "choice": "left"})
        state = ask("state")[1]
        assert state["pair"] is None and state["left_over"] == 0
        assert ask("choice", {"pair": 2, "choice": "left"})[0] == 409
        assert ask("finish", {})[0] == 200
    assert len({(row["left"], row["right"]) for row in rows(out)}) == 4
    assert all(parse(json.dumps(row)) == ([], row) for row in rows(out))


def test_only_its_own_pictures_are_shown_and_only_to_its_own_page(tmp_path: Path, shown: Path) -> None:
    with serving(tmp_path / "out", shown) as (server, ask):
        token, port = server.token, server.server_address[1]
        assert server.server_address[0] == "127.0.0.1" and len(token) >= 32
        status, picture = ask("media/0/left")
        assert status == 200 and picture == server.asking.file(0, "left").read_bytes()
        for name in (
            "../shown/notes.txt", "media/0/../../notes.txt", "media/%2e%2e/notes.txt", "media/0/left/../x", "notes.txt",
            "media/9/left", "media/-1/left", "media/0/up", "media//etc/passwd", "..%2f..%2fetc%2fpasswd", "state?x=1",
        ):  # fmt: skip
            status, content = ask(name)
            assert status == 404 and b"secret" not in content and b"root:" not in content, name
        for path in ("/", "/state", f"/{token}", f"/{token[:-1]}x/state", "//state", "/../../etc/passwd"):
            assert ask("", path=path)[0] == 404, path
        assert ask("state", Host=f"evil.example:{port}")[0] == 403
        assert ask("state", Host=f"localhost:{port}")[0] == 200
        for body in (
            {"pair": "0", "choice": "left"},
            {"pair": True, "choice": "left"},
            {"choice": "left"},
            [1],
            {"a": 1},
        ):
            assert ask("choice", body)[0] == 400, body
        assert ask("choice", {"pair": 0, "choice": "best"})[0] == 409
        assert ask("choice", {"pair": 0, "choice": "left"}, **{"Content-Type": "text/plain"})[0] == 400
        assert ask("choice", {"pair": 0, "choice": "left" * 1000})[0] == 400
        assert ask("other", {})[0] == 404
        assert (tmp_path / "out" / "pairs.jsonl").read_text() == ""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", f"/{token}/")
        answer = connection.getresponse()
        page = answer.read().decode()
        connection.close()
        policy = answer.headers["Content-Security-Policy"]
    nonce = re.search(r"'nonce-([^']+)'", policy)
    assert nonce and page.count(nonce[1]) == 2 and "NONCE" not in page and "default-src 'none'" in policy
    assert not re.search(r"https?:|//[a-z]", page), "nothing comes from elsewhere"


def test_the_page_has_the_keys_that_help_promises() -> None:
    page = resources.files("frolic.cli").joinpath("label.html").read_text("utf-8")
    for key in ("ArrowLeft", "ArrowRight", "ArrowDown", 's: "skip"', '"u"'):
        assert key in page


def test_a_half_line_is_cut_a_whole_one_kept_and_a_damaged_one_refused(tmp_path: Path, shown: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    questions = questions_from(shown, out)[0]
    asking = Asking(out, questions)
    for pair in range(2):
        asking.answer(pair, "left")
    with pytest.raises(FileError, match="Another process"):
        Asking(out, questions)
    asking.close()
    path = out / "pairs.jsonl"
    whole = path.read_bytes()
    for end in range(1, len(whole) - whole.index(b"\n") - 2):
        path.write_bytes(whole[:-end])
        again = Asking(out, questions)
        kept = 2 if end == 1 else 1
        assert (len(again.questions), bool(again.repaired)) == (4 - kept, kept == 1), "only the newline was lost"
        again.answer(0, "equal")
        again.close()
        lines = path.read_text().split("\n")
        assert len(lines) == kept + 2 and all(parse(line)[0] == [] for line in lines[:-1]) and lines[-1] == ""
    path.write_bytes(whole[:20] + b"\n" + whole)
    with pytest.raises(FileError, match="line 1"):
        Asking(out, questions)
    path.write_bytes(b"\xff\xfe" + whole)
    with pytest.raises(FileError, match="UTF-8"):
        Asking(out, questions)


def test_a_choice_that_cannot_be_written_is_still_to_be_made(tmp_path: Path, shown: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    asking = Asking(out, questions_from(shown, out)[0])
    asking.answer(0, "left")
    before = (out / "pairs.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        import os

        write = os.write
        patch.setattr(os, "write", lambda file, data: write(file, data[:10]))
        with pytest.raises(Exception, match="no room"):
            asking.answer(1, "right")
    assert (out / "pairs.jsonl").read_bytes() == before and asking.current == 1
    asking.answer(1, "right")
    (out / "pairs.jsonl").write_bytes(before)
    with pytest.raises(FileError, match="another program"):
        asking.undo()
    asking.close()


def test_pairs_of_a_folder_are_of_one_prompt(tmp_path: Path, shown: Path, tiny: Any) -> None:
    for number, prompt in enumerate(["a cat", "a cat", "a dog"]):
        tiny(prompt, seed=number, steps=1).save(shown / f"drawn-{number}.png")
    questions, alone = questions_from(shown, tmp_path)
    assert alone == 1, "the dog"
    (cat,) = [question for question in questions if question.prompt]
    assert cat.prompt == "a cat" and {cat.left, cat.right} == {"shown/drawn-0.png", "shown/drawn-1.png"}
    plain = [question for question in questions if not question.prompt]
    sides = [name for question in plain for name in (question.left, question.right)]
    assert len(plain) == 4 and all(sides.count(name) == 2 for name in sides)
    assert questions == questions_from(shown, tmp_path)[0]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileError, match="no two pictures"):
        questions_from(empty, tmp_path)


def test_neither_side_is_favoured() -> None:
    turned = [Question.of("p", f"{n}-a", f"{n}-b").left.endswith("a") for n in range(400)]
    assert 150 < sum(turned) < 250
    assert Question.of("p", "a", "b") == Question.of("p", "b", "a")


def test_asked_pairs_cannot_lead_out_of_their_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("../x.png", "/etc/passwd", "pictures/a.txt"):
        row = {"prompt": "", "left": name, "right": "pictures/b.png"}
        (tmp_path / "out" / "asked.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(FileError, match="line 1"):
            open_asked(tmp_path / "out")


def test_lines_are_dropped_only_from_the_end(tmp_path: Path) -> None:
    with Lines(tmp_path / "file") as lines:
        lines.append("one")
        lines.append("zwei, größer")
        assert lines.drop() == "zwei, größer"
        lines.append("three")
    assert (tmp_path / "file").read_text() == "one\nthree\n"


@pytest.fixture
def all_left(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of a user: whoever serves the page meets one who always takes the left one."""
    asked: list[str] = []

    def serve(server: LabelServer, poll_interval: float = 0.5) -> None:
        while (pair := server.asking.current) is not None:
            asked.append(server.asking.questions[pair].prompt)
            server.asking.answer(pair, "left")
        raise KeyboardInterrupt

    monkeypatch.setattr(label_server.LabelServer, "serve_forever", serve)
    return asked


def test_pairs_are_drawn_with_two_seeds_once(
    command: Command, tmp_path: Path, tiny_folder: Path, all_left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    given = (
        "reward",
        "label",
        "mine",
        "-m",
        tiny_folder,
        "--steps",
        "1",
        "--pairs",
        "2",
        "-p",
        "a cat",
        "-p",
        "two dogs",
    )
    done = command(*given)
    assert done.code == 0, done.err
    assert (
        "4 choices added" in done.out and opened and opened[0] in done.out and opened[0].startswith("http://127.0.0.1:")
    )
    folder = tmp_path / "here" / "mine"
    made = rows(folder)
    assert all_left == ["a cat", "a cat", "two dogs", "two dogs"]
    seeds = [{read_record(folder / row[side])["request"]["seed"] for side in ("left", "right")} for row in made]
    assert seeds == [{0, 1}, {2, 3}] * 2
    again = json.loads(command(*given, "--no-browser", "--json").out.splitlines()[-1])
    assert (again["chosen"], again["in_all"], again["left"]) == (0, 4, 0) and len(opened) == 1
    assert len(list((folder / "pictures").iterdir())) == 8, "nothing was drawn again"
    assert command("reward", "label", "mine", "--no-browser").code == 0, "without prompts: what is there"


def test_pairs_are_drawn_by_two_models_with_one_seed(
    command: Command, tmp_path: Path, tiny_folder: Path, all_left: list[str]
) -> None:
    other = write_tiny_folder(tmp_path / "other", seed=1)
    done = command(
        "reward", "label", "mine", "-m", tiny_folder, "--against", other, "--steps", "1", "-p", "a cat", "-s", "5",
        "--size", "32x32", "--no-browser",
    )  # fmt: skip
    assert done.code == 0, done.err
    folder = tmp_path / "here" / "mine"
    (row,) = rows(folder)
    records = [read_record(folder / row[side]) for side in ("left", "right")]
    assert [record["request"]["seed"] for record in records] == [5, 5]
    assert records[0]["model"]["hash"] != records[1]["model"]["hash"]


def test_pictures_of_ones_own(command: Command, shown: Path, all_left: list[str]) -> None:
    done = command("reward", "label", "mine", "--pairs-from", shown, "--no-browser", "--json")
    assert done.code == 0 and json.loads(done.out.splitlines()[-1])["chosen"] == 4
    assert {row["choice"] for row in rows(Path("mine"))} == {"left"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--pairs-from", "x", "-p", "a cat"], "--pairs-from is for pictures that are there"),
        (["--pairs-from", "x", "-m", "nonexistent"], "--pairs-from is for pictures that are there"),
        (["--pairs-from", "x", "--pairs", "3"], "--pairs-from is for pictures that are there"),
        (["--pairs-from", "gone"], "no folder that can be read"),
        ([], "holds no pairs yet"),
        (["--steps", "3"], "no prompt to draw pairs of"),
        (["-p", " "], "--prompt is empty"),
        (["-p", "a cat", "--size", "big"], "--size 'big' is not WIDTHxHEIGHT"),
        (["-p", "a cat", "--lora", "x:1,y=2"], "is not steps="),
    ],
)
def test_what_cannot_be_meant(command: Command, given: list[str], said: str) -> None:
    done = command("reward", "label", "mine", "--no-browser", *given)
    assert done.code in (2, 3) and said in done.err


def test_a_port_that_is_taken(tmp_path: Path, shown: Path) -> None:
    with serving(tmp_path / "out", shown) as (server, _), pytest.raises(RequestError, match="choose another --port"):
        LabelServer(server.asking, server.server_address[1])


def test_names_that_are_no_text_are_no_crash(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pictures = out / "pictures"
    pictures.mkdir(parents=True)
    for name in (b"caf\xe9.png", b"b.png"):
        with (pictures / os.fsdecode(name)).open("wb") as file:
            Image.new("RGB", (8, 8)).save(file, "PNG")
    questions, alone = questions_from(pictures, out)
    assert len(questions) == 1 and not alone
    lines, found = open_asked(out)
    with lines:
        assert not found
        for line in rows_of(questions):
            lines.append(line)
    lines, found = open_asked(out)
    lines.close()
    assert found == questions
