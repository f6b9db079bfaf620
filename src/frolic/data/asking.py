"""Which pairs are to be chosen between, and what was chosen: the folder of ``frolic reward label``.

``asked.jsonl`` holds the pairs that were drawn, ``pairs.jsonl`` the choices (see ``frolic.data.pairs``).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frolic.data.lines import Lines
from frolic.data.pairs import CHOICES, CLIPS, PICTURES, parse
from frolic.errors import FileError, RequestError
from frolic.io.media import read_record
from frolic.io.problems import Problems

ASKED, PAIRS = "asked.jsonl", "pairs.jsonl"
SKIP = "skip"


@dataclass(frozen=True)
class Question:
    """Two pictures or clips of one prompt, by their paths from the folder."""

    prompt: str
    left: str
    right: str

    @classmethod
    def of(cls, prompt: str, one: str, other: str) -> Question:
        """Which of the two stands left is decided by a hash, so that neither side is favoured and none moves."""
        one, other = sorted((one, other))
        turned = hashlib.sha256(f"{prompt}\0{one}\0{other}".encode("utf-8", "surrogatepass")).digest()[0] % 2
        return cls(prompt, *((other, one) if turned else (one, other)))

    @property
    def key(self) -> tuple[str, frozenset[str]]:
        return self.prompt, frozenset((self.left, self.right))


def open_asked(folder: Path) -> tuple[Lines, list[Question]]:
    """The pairs that were drawn into ``folder`` so far, and the file to add others to.

    Raises:
        FileError: as ``Lines``, or listing the lines that are no pairs of files within the folder.
    """
    lines = Lines(folder / ASKED, lambda text: _question(text, folder) is not None)
    problems = Problems(f"{lines.path} cannot be used; mend these lines or take them out")
    found = []
    for number, line in enumerate(lines.lines, 1):
        question = _question(line, folder)
        if question is None:
            problems.add("not a pair of pictures in the folder", f"line {number}")
        else:
            found.append(question)
    if problems:
        lines.close()
    problems.raise_any(FileError)
    return lines, found


def questions_from(pictures: Path, folder: Path) -> tuple[list[Question], int]:
    """Pairs of the pictures and clips that lie in ``pictures``, with paths from ``folder``, and how many files have
    none to be compared with.

    What a file that frolic made says of its prompt is its prompt; files that say nothing have none. Those of one prompt
    are compared in a ring, each with the next by a hash of their names, so every one is in two pairs.

    Raises:
        FileError: the folder cannot be read or holds fewer than two pictures.
    """
    try:
        files = sorted(path for path in pictures.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise FileError(f"{pictures} is no folder that can be read; give one with pictures or clips.") from error
    groups: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix.lower() in (*PICTURES, *CLIPS) and ".preview" not in path.suffixes:
            groups.setdefault(_prompt_of(path), []).append(path)
    found, alone = [], 0
    for prompt, members in groups.items():
        members.sort(key=lambda path: hashlib.sha256(os.fsencode(path.name)).digest())
        names = [os.path.relpath(path.resolve(), folder.resolve()) for path in members]
        ring = zip(names, names[1:] + names[:1], strict=True) if len(names) > 2 else [tuple(names)]
        if len(names) > 1:
            found += [Question.of(prompt, one, other) for one, other in ring]
        alone += len(names) == 1
    if not found:
        raise FileError(f"{pictures} holds no two pictures or clips of one prompt; give a folder that does.")
    found.sort(key=lambda question: hashlib.sha256(repr(question).encode()).digest())
    return found, alone


class Asking:
    """Asks each of ``questions`` once and keeps the choices in the folder's ``pairs.jsonl``. Safe to use from several
    threads. What is skipped is asked again by another ``Asking``, not by this one."""

    def __init__(self, folder: Path, questions: Iterable[Question]) -> None:
        """Raises:
        FileError: as ``Lines``, or listing the lines of ``pairs.jsonl`` that are no choices.
        """
        self.folder = folder
        self._log = Lines(folder / PAIRS, lambda text: not parse(text)[0])
        done = set()
        problems = Problems(f"{self._log.path} cannot be added to; mend these lines or take them out")
        for number, line in enumerate(self._log.lines, 1):
            wrong, row = parse(line) if line.strip() else ([], {})
            for group, said in wrong:
                problems.add(group, f"line {number}{f': {said}' if said else ''}")
            if row and not wrong:
                done.add(Question(row["prompt"], row["left"], row["right"]).key)
        if problems:
            self._log.close()
        problems.raise_any(FileError)
        self.repaired = self._log.cut
        self.questions = list({q.key: q for q in questions if q.key not in done}.values())
        self.before, self.chosen = len(done), 0
        self._next = 0
        self._past: list[tuple[int, str]] = []
        self._lock = threading.Lock()

    @property
    def current(self) -> int | None:
        """The number of the question to ask, None when all have been asked."""
        return self._next if self._next < len(self.questions) else None

    def answer(self, number: int, choice: str) -> None:
        """Take ``left``, ``right``, ``equal`` or ``skip`` as the answer to a question.

        Raises:
            RequestError: that one is not being asked, or there is no such choice.
            FileError, ResourceError: it could not be written; the question is still asked.
        """
        with self._lock:
            if choice not in (*CHOICES, SKIP):
                raise RequestError(f"There is no choice {choice!r}; choose {', '.join(CHOICES)} or {SKIP}.")
            if number != self.current:
                raise RequestError("Another pair is being asked about; look at the page again.")
            question = self.questions[number]
            if choice != SKIP:
                row = {"prompt": question.prompt, "left": question.left, "right": question.right, "choice": choice}
                self._log.append(_dumped(row))
                self.chosen += 1
            self._past.append((number, choice))
            self._next += 1

    def undo(self) -> None:
        """Take the last answer of this session back; nothing if there is none.

        Raises:
            FileError: the file could not be changed.
        """
        with self._lock:
            if not self._past:
                return
            number, choice = self._past[-1]
            if choice != SKIP:
                self._log.drop()
                self.chosen -= 1
            self._past.pop()
            self._next = number

    @property
    def can_undo(self) -> bool:
        return bool(self._past)

    def file(self, number: int, side: str) -> Path:
        """Where a side of a question lies."""
        question = self.questions[number]
        return self.folder / (question.left if side == "left" else question.right)

    def close(self) -> None:
        self._log.close()


def _question(line: str, folder: Path) -> Question | None:
    try:
        row: Any = json.loads(line)
        prompt, left, right = row["prompt"], row["left"], row["right"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = all(isinstance(value, str) for value in (prompt, left, right)) and len(row) == 3
    if not texts or left == right or not all(_inside(name, folder) for name in (left, right)):
        return None
    return Question(prompt, left, right)


def _inside(name: str, folder: Path) -> bool:
    if not name or "\0" in name or Path(name).suffix.lower() not in (*PICTURES, *CLIPS):
        return False
    return (folder / name).resolve().is_relative_to(folder.resolve())


def _prompt_of(path: Path) -> str:
    try:
        prompt = read_record(path)["request"]["prompt"]
    except (FileError, KeyError, TypeError):
        return ""
    return prompt if isinstance(prompt, str) else ""


def rows_of(questions: Sequence[Question]) -> list[str]:
    """As lines of ``asked.jsonl``."""
    return [_dumped({"prompt": q.prompt, "left": q.left, "right": q.right}) for q in questions]


def _dumped(row: dict[str, Any]) -> str:
    """A line that can be written: names of files need not be text, and what of them is none is escaped."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return line
