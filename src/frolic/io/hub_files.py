"""Which of a repository's files frolic reads, told from their names alone: on the Hub before they are fetched, and on
the disk to see whether all are there.

Weights come as one ``.safetensors`` or as numbered shards with an index, and in variants: ``model.safetensors`` is the
plain one, ``model.fp16.safetensors`` or ``model.fp16-00001-of-00002.safetensors`` (once
``model-00001-of-00002.fp16.safetensors``) another. Only one of them is needed. Pickles never are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

INDEX = "model_index.json"
STEMS = ("diffusion_pytorch_model", "model")
_ROOT = re.compile(rf"{re.escape(INDEX)}|frolic\.json|README\.md|(LICEN[CS]E|NOTICE)(\.\w+)?", re.IGNORECASE)
_SETTINGS = ("config.json", "scheduler_config.json", "tokenizer.json", "tokenizer_config.json")
_WEIGHTS = re.compile(
    rf"(?P<stem>{'|'.join(STEMS)})(\.(?P<variant>\w+))?"
    r"(-(?P<part>\d{5})-of-(?P<parts>\d{5})(\.(?P<late>\w+))?)?\.safetensors"
)
_NOT_READ = ("feature_extractor", "image_processor")


def by_folder(paths: Iterable[str]) -> dict[str, set[str]]:
    """File names by folder (``""`` is the root) of ``paths`` such as ``vae/config.json``; deeper ones are left out."""
    folders: dict[str, set[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if "/" not in folder:
            folders.setdefault(folder, set()).add(name)
    return folders


def weight_sets(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The files of each variant (``""`` is the plain one) that is whole among the ``names`` of one folder."""
    found: dict[tuple[str, str, int], list[tuple[int, str]]] = {}
    for name in sorted(names):
        if match := _WEIGHTS.fullmatch(name):
            variant, late = match["variant"] or "", match["late"] or ""
            key = (match["stem"], variant or late, int(match["parts"] or 0))
            found.setdefault(key, []).append((int(match["part"] or 0), name))
    sets: dict[str, tuple[str, ...]] = {}
    # One file before shards, and a part's own stem before the general one, as they are looked for when reading.
    for stem, variant, parts in sorted(found, key=lambda key: (STEMS.index(key[0]), key[2])):
        numbered = found[stem, variant, parts]
        files = [name for _, name in numbered]
        if parts:
            index = next((name for name in _indexes(stem, variant) if name in names), None)
            if index is None or [number for number, _ in numbered] != list(range(1, parts + 1)):
                continue
            files = [index, *files]
        sets.setdefault(variant, tuple(files))
    return sets


def _indexes(stem: str, variant: str) -> tuple[str, ...]:
    """The names that an index of shards has been published by."""
    if not variant:
        return (f"{stem}.safetensors.index.json",)
    kinds = (f".safetensors.index.{variant}", f".{variant}.safetensors.index", f".safetensors.{variant}.index")
    return tuple(f"{stem}{kind}.json" for kind in kinds)


def choose(sets: Mapping[str, tuple[str, ...]], variant: str) -> tuple[str, ...]:
    """The files of ``variant``, or where it is not there of the plain one, or of the first by name."""
    if not sets:
        return ()
    return sets.get(variant) or sets.get("") or sets[min(sets)]


def select(paths: Collection[str], variant: str = "", components: Collection[str] | None = None) -> tuple[str, ...]:
    """The files of a repository that frolic reads, settings first; ``components`` are folders, all where None.

    A repository without ``model_index.json`` is one component, at its root.
    """
    folders = by_folder(paths)
    root = folders.get("", set())
    settings = [name for name in sorted(root) if _ROOT.fullmatch(name)]
    weights: list[str] = []
    for folder in sorted(folders):
        if folder == "" and INDEX in root:
            continue
        if folder and (INDEX not in root or (components is not None and folder not in components)):
            continue
        prefix = f"{folder}/" if folder else ""
        settings += [prefix + name for name in _SETTINGS if name in folders[folder]]
        weights += [prefix + name for name in choose(weight_sets(folders[folder]), variant)]
    return (*settings, *weights)


def same_kind(paths: Collection[str], here: Collection[str], variant: str = "") -> tuple[str, ...]:
    """The files of one folder of a repository, ``paths``, that complete those that are ``here``: the weights in the
    variant most of which is, else in ``variant``."""
    prefix = next(iter(paths), "").rpartition("/")[0]
    prefix += "/" if prefix else ""
    names = {path.removeprefix(prefix) for path in paths}
    sets = weight_sets(names)
    have = {path.removeprefix(prefix) for path in here}
    best = max(sets, key=lambda kind: (len(have.intersection(sets[kind])), kind == variant, kind == ""), default="")
    kept = (*(name for name in _SETTINGS if name in names), *choose(sets, best))
    return tuple(prefix + name for name in kept)


def variants(paths: Iterable[str]) -> frozenset[str]:
    """Every variant that some component comes in."""
    return frozenset(variant for names in by_folder(paths).values() for variant in weight_sets(names))


def absent(
    paths: Collection[str],
    index: Mapping[str, Any],
    components: Collection[str] | None = None,
    variant: str | None = None,
) -> list[str]:
    """What is needed and not among ``paths``. ``index`` is the content of ``model_index.json``, empty without one.
    The weights have to be there in ``variant``, by default in any."""
    folders = by_folder(paths)
    missing = []
    if not index:
        parts = [""]
    else:
        named = [key for key, entry in index.items() if isinstance(entry, list) and entry and entry[-1]]
        parts = [key for key in named if components is None or key in components]
        missing += [name for name in components or () if name not in named]
    for part in parts:
        names, prefix = folders.get(part, set()), f"{part}/" if part else ""
        if part == "scheduler":
            missing += [] if "scheduler_config.json" in names else [f"{prefix}scheduler_config.json"]
        elif part.startswith("tokenizer"):
            missing += [] if "tokenizer.json" in names else [f"{prefix}tokenizer.json"]
        elif part not in _NOT_READ:
            missing += [] if "config.json" in names else [f"{prefix}config.json"]
            sets = weight_sets(names)
            if not sets or (variant is not None and variant not in sets):
                missing.append(f"{prefix}*.{variant}.safetensors" if variant else f"{prefix}*.safetensors")
    return missing
