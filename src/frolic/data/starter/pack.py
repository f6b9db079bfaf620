"""Decode the sprites and write the packed training set, whole or not at all."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from frolic.data.starter import archives, wordnet
from frolic.data.starter.concepts import CLIP, FLUENT, ICON, Concept, Pick, curation, everyday_prompts, select
from frolic.data.starter.fetch import fetch
from frolic.data.starter.near import near
from frolic.data.starter.packages import (
    ANNOTATIONS,
    FLAT,
    ICONS,
    LABELS,
    NOTO,
    OPENCLIPART,
    SPRITES,
    STARTER_PACKAGES,
    WORDNET,
    Package,
    integrity,
    sha256,
)
from frolic.data.starter.synonyms import Phrasebook, uses_unseen
from frolic.data.starter.teacher import embed, pieces
from frolic.data.starter.texts import vocabulary
from frolic.data.starter.vectors import Collection, render
from frolic.errors import FileError
from frolic.io.files import whole_folder
from frolic.io.home import home

SIDE = 224
FORMAT = 3
SPRITE_FILE = "sprites.safetensors"
STYLES: dict[str, Package] = {"flat": FLAT, "noto": NOTO}
_MARGIN = 0.04  # around pictures that are cut to their content, about what the emoji leave
Progress = Callable[[int, int], None]


def default_folder() -> Path:
    """Where ``frolic data starter`` writes and training reads when no folder is named."""
    return home() / "starter-data"


def build(out: Path, cache: Path | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Fetch, select, decode and write the training set to ``out``; returns the content of its ``pack.json``.

    ``out`` must not exist or be a pack already (which is replaced). ``progress`` is told (sprites done, total).
    Raises NetworkError, FileError, RequestError (no package to draw vector pictures) and ResourceError (disk full).
    """
    check_replaceable(out)
    cache = cache or home() / "packages"
    files = fetch(STARTER_PACKAGES, cache)
    with tarfile.open(files[LABELS]) as labels, tarfile.open(files[ANNOTATIONS]) as annotations:
        emoji = _json(labels, "package/en/data.json")
        groups = _json(labels, "package/meta/groups.json")
        spoken = _json(annotations, "package/annotations/en/annotations.json")["annotations"]["annotations"]
    names = set(archives.fluent_files(files[SPRITES]))
    picks = select(emoji, groups, spoken, names, curation(), everyday_prompts(), uses_unseen)
    net = wordnet.read(files[WORDNET])
    picks = with_near(with_synonyms(picks, net), net, cache)
    drawings: dict[str, dict[str, str]] = {}
    for style, package in STYLES.items():
        with tarfile.open(files[package]) as archive:
            collection = Collection(archive)
        found = {pick.concept.code: collection.svg(pick.concept.code) for pick in picks if pick.source == FLUENT}
        drawings[style] = {code: svg for code, svg in found.items() if svg is not None}
    total = len(picks) + sum(map(len, drawings.values()))
    rgba = torch.empty(total, 4, SIDE, SIDE, dtype=torch.uint8)
    done = 0
    concepts: list[Concept | None] = [None] * len(picks)
    for row, pixels in _main_pictures(picks, files):
        rgba[row] = pixels
        concepts[row] = replace(picks[row].concept, row=row, styles={})
        done = _told(progress, done, total)
    whole = [concept for concept in concepts if concept is not None]
    if len(whole) != len(picks):
        missing = next(pick for pick, concept in zip(picks, concepts, strict=True) if concept is None)
        raise FileError(f"The packages hold no picture {missing.file}; empty the package cache and try again.")
    at = {concept.code: index for index, concept in enumerate(whole)}
    row = len(picks)
    for style, svgs in drawings.items():
        for code, svg in svgs.items():
            rgba[row] = sprite(render(svg, SIDE))
            concept = whole[at[code]]
            whole[at[code]] = replace(concept, styles={**concept.styles, style: row})
            row += 1
            done = _told(progress, done, total)
    return write(out, rgba, whole, {package.spec: _describe(package, path) for package, path in files.items()})


def with_synonyms(picks: list[Pick], net: wordnet.WordNet) -> list[Pick]:
    """``picks`` with the further phrasings that ``net`` has for each and that mean no other of them."""
    concepts = [pick.concept for pick in picks]
    names = [name for concept in concepts for name in (concept.name, *concept.captions)]
    book = Phrasebook(net, names, [concept.keywords for concept in concepts])
    return [
        replace(pick, concept=replace(concept, synonyms=book.phrases(concept.name, concept.keywords, concept.group)))
        for pick, concept in zip(picks, concepts, strict=True)
    ]


def with_near(picks: list[Pick], net: wordnet.WordNet, cache: Path) -> list[Pick]:
    """``picks`` with the words that mean none of them and each comes nearest to; ``cache`` holds the text teacher."""
    words = vocabulary(net, lambda some: pieces(some, cache))
    concepts = [pick.concept for pick in picks]
    found = near(concepts, [*words.common, *words.rare], net, lambda texts: embed(texts, cache))
    return [replace(pick, concept=replace(pick.concept, near=found.get(pick.concept.code, ()))) for pick in picks]


def _main_pictures(picks: list[Pick], files: Mapping[Package, Path]) -> Iterator[tuple[int, Tensor]]:
    """Row and sprite of every picked concept's main picture, in the packages' order."""
    rows: dict[str, dict[str, int]] = {FLUENT: {}, ICON: {}, CLIP: {}}
    for row, pick in enumerate(picks):
        rows[pick.source][pick.file] = row
    for name, webp in archives.fluent(files[SPRITES], rows[FLUENT]):
        yield rows[FLUENT][name], sprite(_opened(webp))
    for name, png in archives.icons(files[ICONS], rows[ICON]):
        yield rows[ICON][name], sprite(cut(_opened(png)))
    for name, svg in archives.clips(files[OPENCLIPART], rows[CLIP]):
        yield rows[CLIP][name], sprite(cut(render(svg, 2 * SIDE)))


def _told(progress: Progress | None, done: int, total: int) -> int:
    if progress is not None:
        progress(done + 1, total)
    return done + 1


def _opened(encoded: bytes) -> Image.Image:
    with Image.open(BytesIO(encoded)) as picture:
        return picture.convert("RGBA")


def cut(picture: Image.Image) -> Image.Image:
    """``picture`` (RGBA) cut to what can be seen of it, in the middle of a transparent square with a small margin."""
    box = picture.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    if box is None:
        return picture
    seen = picture.crop(box)
    side = round(max(seen.size) * (1 + 2 * _MARGIN))
    square = Image.new("RGBA", (side, side))
    square.paste(seen, ((side - seen.width) // 2, (side - seen.height) // 2))
    return square


def sprite(picture: Image.Image) -> Tensor:
    """A picture -> uint8 [4, SIDE, SIDE], straight alpha, with the colour bled under transparent pixels."""
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
    """Write a pack folder: ``rgba`` uint8 [N, 4, H, W], whose rows the ``concepts`` name; returns ``pack.json``."""
    assert rgba.dtype == torch.uint8 and rgba.shape[1] == 4
    used = [row for concept in concepts for row in (concept.row, *concept.styles.values())]
    assert sorted(used) == list(range(len(rgba))), "each picture belongs to one concept"
    check_replaceable(out)
    rows = [asdict(concept) for concept in concepts]
    with whole_pack(out) as draft:
        save_file({"rgba": rgba}, draft / SPRITE_FILE)
        (draft / "concepts.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
        pack = {
            "format": FORMAT,
            "side": int(rgba.shape[-1]),
            "concepts": len(concepts),
            "everyday": sum(concept.everyday for concept in concepts),
            "captions": sum(len(concept.captions) for concept in concepts),
            "synonyms": sum(len(concept.synonyms) for concept in concepts),
            "near": sum(len(concept.near) for concept in concepts),
            "nouns": sum(bool(concept.noun) for concept in concepts),
            "plurals": sum(bool(concept.plural) for concept in concepts),
            "recolourable": sum(bool(concept.colour) for concept in concepts),
            "pictures": len(rgba),
            "styles": Counter(style for concept in concepts for style in concept.styles),
            "inputs": dict(inputs),
            "files": {path.name: sha256(path) for path in sorted(draft.iterdir())},
        }
        (draft / "pack.json").write_text(json.dumps(pack, indent=1), "utf-8")
    return pack


@contextmanager
def whole_pack(out: Path) -> Iterator[Path]:
    """A folder to write the files of a pack into, which appears at ``out``, in the place of a pack that was there, when
    the block ends well, and not at all otherwise. Raises as ``frolic.io.files.whole_folder``."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"Choose another folder with --out: {out} cannot be written ({error.strerror}).") from error
    with whole_folder(out, force=True, ours={SPRITE_FILE, "concepts.json", "pack.json"}.__contains__) as draft:
        yield draft
        # safetensors makes private files; these follow the umask like any other
        (draft / SPRITE_FILE).chmod((draft / "pack.json").stat().st_mode)


def check_replaceable(out: Path) -> None:
    """Raise FileError when ``out`` holds something that is not a pack, before any work is done."""
    if out.exists() and not (out / "pack.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise FileError(f"Choose another folder with --out: {out} exists and is not a training set made by frolic.")


def read(folder: Path) -> tuple[Tensor, list[Concept]]:
    """A pack's sprites, uint8 [N, 4, SIDE, SIDE], and its concepts, which name the rows that are theirs.

    Raises FileError when the pack is missing, not whole or of another version.
    """
    try:
        pack = json.loads((folder / "pack.json").read_text("utf-8"))
        if pack["format"] != FORMAT:
            raise FileError(
                f"Run `frolic data starter --out {folder}` again: the training set there is of another version."
            )
        rows = json.loads((folder / "concepts.json").read_text("utf-8"))
        rgba = load_file(folder / SPRITE_FILE)["rgba"]
        concepts = [_concept(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"Run `frolic data starter --out {folder}` first: no whole training set is there.") from error
    if (len(concepts), len(rgba)) != (pack.get("concepts"), pack.get("pictures")):
        raise FileError(f"Run `frolic data starter --out {folder}` again: the training set there is not whole.")
    return rgba, concepts


def _concept(row: dict[str, Any]) -> Concept:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return Concept(**fields)


def _json(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    assert file is not None, name
    return json.load(file)


def _describe(package: Package, path: Path) -> dict[str, str]:
    return {"sha256": sha256(path), "integrity": integrity(path), "licence": package.licence}
