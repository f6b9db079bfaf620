"""Adapters by name: those that ship with frolic, and those that a user put beside them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from frolic.adapters.folder import Found, find
from frolic.adapters.own import own_target
from frolic.adapters.read import Target, read
from frolic.errors import FileError, ModelError, ModelNotFoundError, RequestError, nearest
from frolic.io.files import check_writable, whole_file, write_error
from frolic.io.home import home
from frolic.io.safetensors import Header, fingerprint, read_header, save
from frolic.io.safetensors import load as load_tensors
from frolic.lora.adapter import METADATA, Loaded
from frolic.lora.experts import HIGH, said_by
from frolic.lora.experts import METADATA as EXPERT
from frolic.strength import MAX_WEIGHT

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SUFFIX = ".safetensors"
_DOWN = re.compile(r"\.lora_(?:A(?:\.\w+)?|down)\.weight$")
# What PEFT says beside its file of how strong the factors are.
_STRENGTH = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
WEIGHT, TRAINED_ON, REWARD = "frolic.weight", "frolic.trained_on", "frolic.reward"
"""What ours say in their metadata beside the names that ModelSpec and kohya have for it."""
_TRIGGER = "modelspec.trigger_phrase"
_OF_MODEL = ("modelspec.architecture", "ss_base_model_version", "modelspec.resolution")
_OF_ONE = ("modelspec.title", "modelspec.description", WEIGHT, TRAINED_ON, REWARD)


def shipped_folder() -> Path:
    return Path(__file__).parents[1] / "starter" / "adapters"


def own_folder() -> Path:
    """The user's, which need not exist."""
    return home() / "adapters"


@dataclass(frozen=True)
class Shelved:
    """An adapter that has a name. What its file does not say is empty; ``weight`` is the one that its makers advise.
    ``reward``: what an adapter that was trained for one gained, as its own file says."""

    name: str
    path: Path
    shipped: bool
    base: str = ""
    rank: str = ""
    trigger: str = ""
    weight: float = 1.0
    about: str = ""
    trained_on: str = ""
    bytes: int = 0
    reward: Mapping[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {**asdict(self), "path": str(self.path)}


def named() -> dict[str, Path]:
    """Where each name's file lies. A user's own hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in (shipped_folder(), own_folder()):
        for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else ():
            if _NAME.fullmatch(path.stem) and path.is_file():
                found[path.stem] = path
    return found


def resolve(source: str) -> Path:
    """The file or folder that ``source`` means: a path to something, or else a name.

    Raises:
        ModelNotFoundError: it is neither.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    known = named()
    if source in known:
        return known[source]
    head, colon, tail = source.rpartition(":")
    if colon and (head in known or Path(head).expanduser().exists()):
        raise ModelNotFoundError(
            f"{tail!r} in {source!r} is not a weight; give a number after the colon, as {head}:0.6."
        )
    if _NAME.fullmatch(source):
        hint = nearest(source, known)
        raise ModelNotFoundError(
            f"There is no adapter {source!r}{hint}; frolic lora list shows those that have a name, or give the path of "
            "its file."
        )
    return path


def load(source: str, goal: Target, *, allow_partial: bool = False, expert: str = HIGH) -> Loaded:
    """The adapter that ``source`` means: a file, a folder or a name. Raises as ``resolve`` and ``read``."""
    given = resolve(source)
    adapter = read(given, goal, allow_partial=allow_partial, expert=expert)
    found = find(given)
    said = said_by(found.name, found.entries(), found.metadata())
    return Loaded(found.name, fingerprint(found.files), adapter, said)


def described(name: str, path: Path) -> Shelved:
    """What the file says of itself. Raises as ``frolic.io.safetensors.read_header``."""
    header = read_header(path)
    said = header.metadata
    return Shelved(
        name=name,
        path=path,
        shipped=path.parent == shipped_folder(),
        base=said.get("ss_base_model_version", ""),
        rank=_ranks(header) or said.get("ss_network_dim", ""),
        trigger=said.get(_TRIGGER, ""),
        weight=_weight(said.get(WEIGHT, "")),
        about=said.get("modelspec.description", ""),
        trained_on=said.get(TRAINED_ON, ""),
        bytes=path.stat().st_size,
        reward=_reward(said.get(REWARD, "")),
    )


def _reward(said: str) -> dict[str, Any] | None:
    """What is no object of JSON is nothing: whoever wrote the file could write anything."""
    try:
        found = json.loads(said) if said else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _ranks(header: Header) -> str:
    """Of the factors themselves, where they are of low rank; most files from elsewhere say nothing of it."""
    found = sorted({entry.shape[0] for key, entry in header.entries.items() if _DOWN.search(key) and entry.shape})
    return "" if not found else str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _weight(said: str) -> float:
    """The advised weight; whoever wrote the file could write anything, and what is no number is the usual one."""
    try:
        number = float(said)
    except ValueError:
        return 1.0
    return number if abs(number) <= MAX_WEIGHT else 1.0  # nan is not


def carried(parts: Sequence[tuple[Loaded, float]]) -> dict[str, str]:
    """What files say of themselves that is still true of one file that is made of them at these weights: of a single
    one everything, of several the model, the expert and the words that call them."""
    said = [loaded.adapter.metadata for loaded, _ in parts]
    keys = _OF_MODEL if len(parts) > 1 or parts[0][1] != 1.0 else (*_OF_MODEL, *_OF_ONE)
    found = {key: said[0][key] for key in keys if key in said[0] and len({each.get(key) for each in said}) == 1}
    words = [word.strip() for each in said for word in each.get(_TRIGGER, "").split(",")]
    if called := ", ".join(dict.fromkeys(filter(None, words))):
        found[_TRIGGER] = called
    experts = {loaded.expert for loaded, _ in parts}
    if len(experts) == 1 and (expert := experts.pop()):
        found[EXPERT] = expert  # a name may have said it, and the new file has another
    return found


def shelf() -> tuple[list[Shelved], Mapping[str, str]]:
    """Every adapter that has a name, and what is wrong with those that cannot be read."""
    there, broken = [], {}
    for name, path in sorted(named().items()):
        try:
            there.append(described(name, path))
        except ModelError as error:
            broken[name] = str(error)
    return there, broken


def add(source: Path, name: str | None = None, *, force: bool = False) -> Shelved:
    """Keep the adapter at ``source``, which is read and checked as a whole, under a name (by default its own). One file
    is copied to the byte, so that records know it again; a folder becomes one file of the same strength.

    Raises:
        RequestError: it is no name, or one that loses which expert the adapter is for.
        ModelError: there is no adapter, or it is broken, or holds what is not finite.
        FileError, ResourceError: the name is taken, or nothing can be written.
    """
    found = find(source)
    name = found.name if name is None else name
    if not _NAME.fullmatch(name):
        raise RequestError(f"{name!r} is no name for an adapter; give --name with letters, digits, - and _ only.")
    entries, said = found.entries(), found.metadata()
    expert = said_by(found.name, entries, said)
    if expert and said_by(name, entries, said) != expert:
        # The bytes are kept, so the name has to go on saying it.
        raise RequestError(f"By its name {found.name} is for {expert} noise; keep that, as in --name {name}-{expert}.")
    place = own_folder() / f"{name}{_SUFFIX}"
    if place.is_file() and not force:
        check_writable(place)
    read(source, own_target([source]), allow_partial=True)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, place) from error
    if found.peft is None and found.files == (found.path,):
        with whole_file(place, force=force) as out, found.path.open("rb") as given:
            shutil.copyfileobj(given, out)
    else:
        save(load_tensors(found.path), place, metadata={**found.metadata(), **_said_beside(found)}, force=force)
    return described(name, place)


def _said_beside(found: Found) -> dict[str, str]:
    """PEFT's settings of strength, as a single file says them."""
    if found.peft is None:
        return {}
    return {METADATA: json.dumps({f"transformer.{key}": found.peft[key] for key in _STRENGTH if key in found.peft})}


def remove(name: str) -> Path:
    """Take one of the user's own away again.

    Raises:
        ModelNotFoundError: the user has none of that name.
        FileError: it cannot be deleted.
    """
    path = named().get(name)
    if path is None or path.parent != own_folder():
        said = " ships with frolic and stays" if path is not None else f" is not there{nearest(name, named())}"
        raise ModelNotFoundError(f"The adapter {name!r}{said}; frolic lora list shows what there is.")
    try:
        path.unlink()
    except OSError as error:
        raise FileError(f"{path} cannot be deleted ({error.strerror}); check its permissions.") from error
    return path
