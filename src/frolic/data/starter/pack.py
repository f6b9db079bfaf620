"""Decode the sprites and write the packed training set, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from frolic.data.starter.concepts import Concept, curation, everyday_prompts, select
from frolic.data.starter.fetch import fetch, home, integrity
from frolic.data.starter.packages import ANNOTATIONS, LABELS, SPRITES, STARTER_PACKAGES, NpmPackage
from frolic.errors import FileError, ResourceError

SIDE = 160
FORMAT = 1


def default_folder() -> Path:
    """Where ``frolic data starter`` writes and training reads when no folder is named."""
    return home() / "starter-data"


def build(out: Path, cache: Path | None = None, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Fetch, select, decode and write the training set to ``out``; returns the content of its ``pack.json``.

    ``out`` must not exist or be a pack already (which is replaced). ``progress`` is told (sprites done, total).
    Raises NetworkError, FileError and ResourceError (disk full).
    """
    check_replaceable(out)
    tarballs = fetch(STARTER_PACKAGES, cache or home() / "packages")
    with tarfile.open(tarballs[LABELS]) as labels, tarfile.open(tarballs[ANNOTATIONS]) as annotations:
        emoji = _json(labels, "package/en/data.json")
        groups = _json(labels, "package/meta/groups.json")
        spoken = _json(annotations, "package/annotations/en/annotations.json")["annotations"]["annotations"]
    with tarfile.open(tarballs[SPRITES]) as archive:
        pictures = {Path(name).stem: name for name in archive.getnames() if name.endswith(".webp")}
        concepts = select(emoji, groups, spoken, set(pictures), curation(), everyday_prompts())
        wanted = {pictures[concept.file]: index for index, concept in enumerate(concepts)}
        rgba = torch.empty(len(concepts), 4, SIDE, SIDE, dtype=torch.uint8)
        done = 0
        # In the archive's own order: a gzipped tar has no index, so jumping about would inflate it again and again.
        for member in archive:
            index = wanted.get(member.name)
            if index is None:
                continue
            file = archive.extractfile(member)
            assert file is not None
            rgba[index] = sprite(file.read())
            done += 1
            if progress is not None:
                progress(done, len(concepts))
    inputs = {package.spec: _describe(package, path) for package, path in tarballs.items()}
    return write(out, rgba, concepts, inputs)


def sprite(encoded: bytes) -> Tensor:
    """An encoded picture -> uint8 [4, SIDE, SIDE], straight alpha, with the colour bled under transparent pixels."""
    with Image.open(BytesIO(encoded)) as picture:
        full = np.asarray(picture.convert("RGBA"), np.float32) / 255
    premultiplied = np.concatenate([full[..., :3] * full[..., 3:], full[..., 3:]], -1)
    planes = [
        np.asarray(Image.fromarray(premultiplied[..., c]).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        for c in range(4)
    ]
    alpha = np.clip(planes[3], 0, 1)
    colour = np.stack(planes[:3]) / np.maximum(alpha, 1e-3)
    # Later rescaling mixes neighbours: a hidden black pixel would darken the rim of the cut-out.
    mean = (np.stack(planes[:3]).sum((1, 2)) / max(float(alpha.sum()), 1e-3))[:, None, None]
    colour = np.where(alpha > 1 / 255, colour, mean)
    pixels = np.concatenate([np.clip(colour, 0, 1), alpha[None]])
    return torch.from_numpy(np.round(pixels * 255).astype(np.uint8))


def write(out: Path, rgba: Tensor, concepts: list[Concept], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Write a pack folder: ``rgba`` uint8 [N, 4, H, W] in the order of ``concepts``; returns ``pack.json``."""
    assert rgba.dtype == torch.uint8 and rgba.shape[:2] == (len(concepts), 4)
    check_replaceable(out)
    rows = [{key: value for key, value in asdict(concept).items() if key != "file"} for concept in concepts]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as holder:
            draft = Path(holder) / "pack"
            draft.mkdir()
            save_file({"rgba": rgba}, draft / "sprites.safetensors")
            (draft / "concepts.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
            pack = {
                "format": FORMAT,
                "side": int(rgba.shape[-1]),
                "concepts": len(concepts),
                "everyday": sum(concept.everyday for concept in concepts),
                "captions": sum(len(concept.captions) for concept in concepts),
                "inputs": dict(inputs),
                "files": {path.name: _sha256(path) for path in sorted(draft.iterdir())},
            }
            (draft / "pack.json").write_text(json.dumps(pack, indent=1), "utf-8")
            plain = (draft / "pack.json").stat().st_mode
            for path in draft.iterdir():
                path.chmod(plain)  # safetensors makes private files; these follow the umask like any other
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if out.exists():
                out.rename(Path(holder) / "old")
            draft.rename(out)
    except OSError as error:
        if error.errno in (28, 122):
            raise ResourceError(
                f"Free some disk space and run the command again: {out} could not be written."
            ) from error
        raise FileError(f"Choose another folder with --out: {out} cannot be written ({error.strerror}).") from error
    return pack


def check_replaceable(out: Path) -> None:
    """Raise FileError when ``out`` holds something that is not a pack, before any work is done."""
    if out.exists() and not (out / "pack.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise FileError(f"Choose another folder with --out: {out} exists and is not a training set made by frolic.")


def read(folder: Path) -> tuple[Tensor, list[Concept]]:
    """A pack's sprites, uint8 [N, 4, H, W], and its concepts. Raises FileError when it is missing or not whole."""
    try:
        version = json.loads((folder / "pack.json").read_text("utf-8"))["format"]
        rows = json.loads((folder / "concepts.json").read_text("utf-8"))
        rgba = load_file(folder / "sprites.safetensors")["rgba"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise FileError(f"Run `frolic data starter --out {folder}` first: no whole training set is there.") from error
    if version != FORMAT or len(rows) != len(rgba):
        raise FileError(
            f"Run `frolic data starter --out {folder}` again: the training set there is of another version."
        )
    for row in rows:
        row.update(file=row["code"], captions=tuple(row["captions"]), keywords=tuple(row["keywords"]))
    return rgba, [Concept(**row) for row in rows]


def _json(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    assert file is not None, name
    return json.load(file)


def _describe(package: NpmPackage, path: Path) -> dict[str, str]:
    return {"sha256": _sha256(path), "integrity": integrity(path), "licence": package.licence}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
