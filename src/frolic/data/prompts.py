"""Prompts to train and to check with.

N prompts, B batch, S tokens, E text width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from frolic.data.cached import TextSet
from frolic.errors import ConfigError, FileError, nearest
from frolic.io.problems import Problems

_LISTS = "frolic.data.prompt_lists"


def shipped() -> list[str]:
    """The names of the lists that come with frolic."""
    return sorted(
        item.name.removesuffix(".txt") for item in resources.files(_LISTS).iterdir() if item.name.endswith(".txt")
    )


def read_prompts(source: str) -> list[str]:
    """The prompts of a file, each once, or of the shipped list ``source``. Lines that are empty or begin with ``#`` say
    nothing; of a ``.jsonl`` each line is an object with ``prompt``.

    Raises:
        FileError: there is no such file, or listing the lines that are not understood.
        ConfigError: it holds no prompt.
    """
    if source in shipped():
        text, name = resources.files(_LISTS).joinpath(f"{source}.txt").read_text("utf-8"), source
    else:
        path = Path(source).expanduser()
        try:
            text, name = path.read_text("utf-8-sig"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(
                f"The prompts {source} cannot be read ({error}){nearest(source, shipped())}; give a text file, or one "
                f"of {', '.join(shipped())}."
            ) from error
    problems = Problems(f"{name} cannot be read as prompts")
    found: list[str] = []
    objects = name.endswith(".jsonl")
    # JSON strings may hold what else ends a line.
    for number, line in enumerate(text.split("\n") if objects else text.splitlines(), 1):
        if objects:
            line = _of_json(line, number, problems)
        if line.strip() and not line.lstrip().startswith("#"):
            found.append(" ".join(line.split()))
    problems.raise_any(FileError)
    if not found:
        raise ConfigError(f"{name} holds no prompt; write one a line.")
    return list(dict.fromkeys(found))


def _of_json(line: str, number: int, problems: Problems) -> str:
    if not line.strip():
        return ""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str):
        problems.add("no object with a prompt", f"line {number}")
        return ""
    return str(entry["prompt"])


def split_prompts(prompts: Sequence[str], held_out: int) -> tuple[list[str], list[str]]:
    """Those to train with, and ``held_out`` of them to check with. Which ones is decided by each prompt alone, so that
    one that is added does not move the others.

    Raises:
        ConfigError: none would be left to train with.
    """
    if held_out >= len(prompts):
        raise ConfigError(
            f"There are {len(prompts)} prompts and {held_out} are to be held out; give more, or hold out less."
        )
    ranked = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    held = set(ranked[:held_out])
    return [prompt for prompt in prompts if prompt not in held], [prompt for prompt in prompts if prompt in held]


@dataclass(frozen=True)
class Prompts:
    """``{"prompt": [B], "text": [B, S, E], "mask": [B, S]}``: random ones of ``prompts``, by their numbers, with what
    they read as. ``rows`` says where each is in ``words``."""

    prompts: Sequence[str]
    words: TextSet
    rows: Mapping[str, int]

    def batch(self, step: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        number = torch.randint(len(self.prompts), (size,), generator=generator)
        text, mask = self.texts([self.prompts[each] for each in number.tolist()])
        return {"prompt": number, "text": text, "mask": mask}

    def texts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What ``prompts`` read as, any that have a row: states [N, S, E] and mask [N, S]."""
        index = torch.tensor([self.rows[prompt] for prompt in prompts])
        states, mask = self.words.rows(index, int(self.words.length.max()))
        return states.float(), mask

    @staticmethod
    def mark(prompts: Sequence[str]) -> str:
        """A fingerprint of a list of prompts."""
        return hashlib.sha256("\n".join(prompts).encode()).hexdigest()
