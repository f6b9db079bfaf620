"""Names of models on the Hugging Face Hub, and where the cache that all its libraries share keeps them.

Nothing here opens a socket or imports ``huggingface_hub``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frolic.errors import ModelNotFoundError

if TYPE_CHECKING:
    from frolic.spec import Published

_FILES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".gguf", ".json", ".png")
_OFFLINE = ("FROLIC_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_LONGEST_PART, _LONGEST_REVISION = 96, 255


@dataclass(frozen=True)
class HubName:
    """``org/name[@revision]``: a repository, and the branch, tag or commit asked for (``""`` is ``main``).

    ``commit`` is what the revision stands for, once that is known.
    """

    repo: str
    revision: str = ""
    commit: str = ""

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo

    @property
    def ref(self) -> str:
        return self.revision or "main"

    def folder(self) -> Path:
        """Where the cache has the repository, or would have it."""
        return cache_folder() / f"models--{self.repo.replace('/', '--')}"


def cache_folder() -> Path:
    """The Hub's cache, as ``HF_HUB_CACHE``, ``HF_HOME`` or ``XDG_CACHE_HOME`` place it."""
    env = os.environ
    if chosen := env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE"):
        return _expand(chosen)
    home = env.get("HF_HOME") or str(Path(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    return _expand(home) / "hub"


def endpoint() -> str | None:
    """The Hub to ask where ``HF_ENDPOINT`` names another than the usual one."""
    return os.environ.get("HF_ENDPOINT") or None


def parse(name: str) -> HubName | None:
    """``name`` as a name on the Hub, or None where it is a path or a word. What exists on the disk is a path.

    Raises:
        ModelNotFoundError: it looks like a name on the Hub, and cannot be one; says why.
    """
    if is_there(name):
        return None
    text = name.removeprefix("hf://")
    if "://" in text:
        raise ModelNotFoundError(f"{name[:200]!r} is an address; give the repository as org/name.")
    repo, at, revision = text.partition("@")
    if repo.count("/") != 1 or "\\" in repo or repo[0] in "/.~" or repo.endswith(("/", *_FILES)):
        return None
    wrong = [*_wrong_repo(repo), *(_wrong_revision(revision) if at else ())]
    if wrong:
        raise ModelNotFoundError(
            f"There is no folder {name[:200]!r}, and it cannot be a model on the Hub: {', '.join(wrong)}."
        )
    return HubName(repo, revision)


def named(model: str, published: Iterable[Published] = ()) -> tuple[HubName, str] | None:
    """The repository that ``model`` stands for and the file variant to prefer, or None where it is no such name.

    ``model`` is a published model's short name or ``org/name``, either with ``@revision``.

    Raises:
        ModelNotFoundError: as ``parse``.
    """
    known = tuple(published)
    word, at, revision = model.partition("@")
    short = next((entry for entry in known if entry.name == word), None)
    name = parse(short.repo + at + revision if short and not is_there(model) else model)
    if name is None:
        return None
    return name, next((entry.variant for entry in known if entry.repo == name.repo), "")


def is_there(path: str) -> bool:
    """Whether ``path`` exists; what cannot be a path, as it is too long or has strange characters, does not."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def offline() -> tuple[str, ...]:
    """The variables that say that the network must not be used; none, and it may be."""
    return tuple(key for key in _OFFLINE if os.environ.get(key, "").upper() in ("1", "ON", "YES", "TRUE"))


def _expand(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def _wrong_repo(repo: str) -> Iterator[str]:
    for what, part in zip(("organisation", "name"), repo.split("/"), strict=True):
        strange = sorted(set(re.sub(r"[\w.-]", "", part, flags=re.ASCII)))
        if strange:
            yield f"its {what} has {' '.join(map(repr, strange[:8]))} (allowed are letters, digits, '-', '_' and '.')"
        elif part[:1] in "-." or part[-1:] in "-.":
            yield f"its {what} starts or ends with '-' or '.'"
        if len(part) > _LONGEST_PART:
            yield f"its {what} is longer than {_LONGEST_PART} characters"
    for pair in ("--", ".."):
        if pair in repo:
            yield f"it has {pair!r}"
    if repo.endswith(".git"):
        yield "it ends with '.git'"


def _wrong_revision(revision: str) -> Iterator[str]:
    if not revision:
        yield "nothing stands after '@'"
    strange = sorted({char for char in revision if not char.isprintable() or char in " ~^:?*[\\@"})
    if strange:
        yield f"its revision has {' '.join(map(repr, strange[:8]))}"
    if ".." in revision or revision.startswith(("/", ".")) or revision.endswith(("/", ".")) or "//" in revision:
        yield "its revision is not the name of a branch, a tag or a commit"
    if len(revision) > _LONGEST_REVISION:
        yield f"its revision is longer than {_LONGEST_REVISION} characters"
