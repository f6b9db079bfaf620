"""The animated cut-outs: one short loop of each concept that has one, whole or not at all.

N loops, T frames of each, P side of a frame.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from safetensors.torch import load_file
from torch import Tensor

from frolic.data.starter.concepts import Concept, bare_code
from frolic.data.starter.fetch import fetch
from frolic.data.starter.packages import ANIMATED
from frolic.errors import FileError
from frolic.io import safetensors
from frolic.io.files import check_writable, read_json_object
from frolic.io.home import home

SIDE, FRAMES = 128, 24
"""Most loops last three seconds, so that their frames are at eight a second."""
FORMAT, SECONDS = 2, 3.0
LEAST = 8
"""A loop of fewer pictures than this is none."""
MOVES = 3.0
"""How far, in shades of 255, the frames of a loop have to differ from the first, on average over what is opaque."""
FILE = f"animated-{SIDE}.safetensors"
Progress = Callable[[int, int], None]


def default_file() -> Path:
    """Where ``frolic data starter-video`` writes and training reads when no file is named."""
    return home() / "starter-video-data" / FILE


def build(
    concepts: Sequence[Concept], out: Path, cache: Path | None = None, progress: Progress | None = None
) -> dict[str, int]:
    """Fetch, decode and write the loops of ``concepts`` to ``out``; returns how many there are, and how many stood
    still and were left out.

    Raises:
        NetworkError, FileError, ResourceError: something cannot be fetched, read or written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    check_writable(out, force=True)
    files = fetch(ANIMATED, cache or home() / "packages")
    codes = {concept.code for concept in concepts}
    loops: dict[str, Tensor] = {}
    static = done = 0
    for package in ANIMATED:
        with tarfile.open(files[package]) as archive:
            for member in archive:
                code = bare_code(Path(member.name).stem)
                if not member.name.endswith(".webp") or code not in codes or code in loops:
                    continue
                data = archive.extractfile(member)
                assert data is not None
                frames = loop(data.read())
                done += 1
                if progress is not None:
                    progress(done, len(codes))
                if frames is None or change(frames) < MOVES:
                    static += frames is not None
                    continue
                loops[code] = frames
    if not loops:
        raise FileError("The packages hold no loop of any concept; empty the package cache and try again.")
    ordered = sorted(loops)
    about = {"frolic": json.dumps({"format": FORMAT, "codes": ordered})}
    rgba = torch.empty(len(ordered), FRAMES, 4, SIDE, SIDE, dtype=torch.uint8)
    for row, code in enumerate(ordered):
        rgba[row] = loops.pop(code)  # all of them twice would be two gigabytes
    safetensors.save({"rgba": rgba}, out, metadata=about, force=True)
    return {"loops": len(ordered), "static": static}


def read(path: Path | None = None) -> tuple[Tensor, dict[str, int]]:
    """The loops uint8 [N, T, 4, P, P], memory-mapped, and the row of each concept by its code.

    Raises:
        FileError: they are not there, or are of another version. CheckpointError: the file is damaged.
    """
    path = path or default_file()
    if not path.is_file():
        raise FileError(f"There are no animated cut-outs in {path}; make them with: frolic data starter-video")
    about = json.loads(safetensors.read_header(path).metadata.get("frolic", "{}"))
    if about.get("format") != FORMAT:
        raise FileError(f"The animated cut-outs in {path} are of another version; run: frolic data starter-video")
    return load_file(path)["rgba"], {code: row for row, code in enumerate(about["codes"])}


def verbs() -> Mapping[str, list[str]]:
    """What the loop of a concept, by its code, shows it doing: phrases that follow its name, the first one empty where
    the name says it already ("a man running")."""
    return _table("verbs")


def headings() -> Mapping[str, str]:
    """``left`` or ``right`` of a concept, by its code, whose loop shows it on its way there."""
    return _table("headings")


def _table(name: str) -> dict[str, Any]:
    return dict(read_json_object(Path(str(resources.files("frolic").joinpath(f"data/starter/{name}.json")))))


def loop(webp: bytes) -> Tensor | None:
    """``FRAMES`` frames of an animation [T, 4, P, P], evenly spread over it or, where it is short, over as many rounds
    of it as fit into ``SECONDS``, so that it is about as fast as it was; None where it is next to one picture."""
    with Image.open(BytesIO(webp)) as image:
        count = getattr(image, "n_frames", 1)
        if count < LEAST:
            return None
        made, lasts = [], 0.0
        for frame in ImageSequence.Iterator(image):
            made.append(np.asarray(_reduced(frame.convert("RGBA"))))
            lasts += frame.info.get("duration", 0) / 1000
    rounds = max(1, round(SECONDS / lasts)) if lasts else 1
    # Rounded down, so that the first round's last frame is not the next one's first.
    shown = [int(number * rounds * count / FRAMES) % count for number in range(FRAMES)]
    return torch.from_numpy(np.stack([made[number] for number in shown])).permute(0, 3, 1, 2).contiguous()


def _reduced(image: Image.Image) -> Image.Image:
    """With colours weighed by what can be seen of them, so that nothing hidden bleeds into an edge."""
    return image.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BOX).convert("RGBA")


def change(frames: Tensor) -> float:
    """How far frames differ from the first, in shades of 255, over what is opaque in any."""
    rgba = frames.float()
    seen = rgba[:, :3] * rgba[:, 3:] / 255
    opaque = (rgba[:, 3] > 20).any(0)
    return float((seen - seen[:1]).abs().mean((0, 1))[opaque].mean()) if bool(opaque.any()) else 0.0
