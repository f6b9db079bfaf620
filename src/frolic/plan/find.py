"""Where a model lies, and on what it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from frolic.errors import ModelNotFoundError, RequestError, nearest
from frolic.io.safetensors import refuse_pickle
from frolic.models.registry import families
from frolic.spec import Published

if TYPE_CHECKING:
    from frolic.io import hub


def _shipped(folder: str) -> Path:
    return Path(__file__).parents[1] / "starter" / folder


ALIASES: Mapping[str, Callable[[], Path]] = {
    "starter": partial(_shipped, "model"),
    "starter-sprint": partial(_shipped, "sprint"),
    "starter-video": partial(_shipped, "video"),
}
"""Models that ship with frolic."""


def shipped_or_path(name: str) -> Path:
    """The folder of a model that ships, by its name; any other ``name`` is a path, which need not be there."""
    return ALIASES[name]() if name in ALIASES else Path(name).expanduser()


@dataclass(frozen=True)
class Watch:
    """Who hears of a download: ``notify`` of its size before it begins, ``progress`` of the bytes done and in all.
    Without ``fetch`` there is none: what is not here is refused."""

    notify: hub.Notify | None = None
    progress: hub.Progress | None = None
    fetch: bool = True


def find_model(
    model: str | Path,
    watch: Watch | None = None,
    components: Collection[str] | None = None,
    variant: str | None = None,
) -> Path:
    """Where ``model`` lies, or only its ``components``; one that is named but not here yet is fetched, after ``watch``
    was told, in this ``variant`` (None: the one that suits it).

    Raises:
        ModelNotFoundError: it is neither a name nor a path to something.
        CheckpointError: it is the name of a pipeline that frolic does not know.
        UnsafeFileError: it is a pickle.
        NetworkError: it has to be fetched and cannot be.
    """
    if isinstance(model, str) and model in ALIASES:
        path = ALIASES[model]()
        if not path.is_dir():
            raise ModelNotFoundError(f"The model {model!r} is not part of this installation; install frolic again.")
        return path
    path = Path(model).expanduser()
    try:
        if path.is_file():
            refuse_pickle(path)
        if path.exists():
            return path
    except (OSError, ValueError):
        pass
    short = published_names()
    named = None
    if isinstance(model, str):
        from frolic.io import hub

        heard = watch or Watch()
        if not heard.fetch:
            _require_here(model, short.values(), components, variant)
        named = hub.resolve(
            model,
            short.values(),
            components=components,
            variant=variant,
            classes=[name for family in families().values() for name in family.pipeline_classes],
            notify=heard.notify,
            progress=heard.progress,
        )
    if named is not None:
        return named
    hint = nearest(str(model), [*ALIASES, *short]) or (
        f"; known: {', '.join(ALIASES)}, what `frolic models list` shows, org/name on the Hub, or the path of a model."
    )
    raise ModelNotFoundError(f"There is no model {str(model)[:200]!r}{hint}")


def _require_here(
    model: str, published: Iterable[Published], components: Collection[str] | None, variant: str | None
) -> None:
    from frolic.io import cache, hub_names

    found = hub_names.named(model, published)
    if found is not None and cache.cached(found[0], components, variant) is None:
        raise ModelNotFoundError(
            f"{model} is not on this machine; `frolic models pull {model} --dry-run` says how much there is to fetch."
        )


def published_names() -> dict[str, Published]:
    """Every published model by its short name."""
    return {entry.name: entry for family in families().values() for entry in family.published}


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device ``device`` names; the best that there is for ``auto`` or None.

    Raises:
        RequestError: it is not a device, or this machine has none.
    """
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise RequestError(f"{device!r} is not a device; give auto, cpu, cuda, cuda:N or mps.") from None
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise RequestError(f"This machine has no device {device!r} that torch can use; give --device cpu.")
    elif chosen.type == "mps":
        if not torch.backends.mps.is_available():
            raise RequestError("This machine has no device 'mps' that torch can use; give --device cpu.")
    elif chosen.type != "cpu":
        raise RequestError(f"{device!r} is not supported; give auto, cpu, cuda, cuda:N or mps.")
    return chosen
