"""Loops of things that move by themselves, and clips of them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frolic.data.heldout import reserved
from frolic.data.motion import Actor, Clip, Loops, clips, render_clip
from frolic.data.moves import Move
from frolic.data.starter import animated
from frolic.data.starter.concepts import bare_code
from frolic.errors import CheckpointError, FileError
from frolic.io import safetensors
from small_pack import small_concepts, small_sprites


def webp(moving: bool, frames: int = 72) -> bytes:
    """A square that goes around, or stays."""
    made = []
    for number in range(frames):
        picture = np.zeros((64, 64, 4), np.uint8)
        left = 4 + (number * 40 // frames if moving else 0)
        picture[20:40, left : left + 20] = (200, 30, 30, 255)
        made.append(Image.fromarray(picture, "RGBA"))
    buffer = io.BytesIO()
    made[0].save(buffer, "WEBP", save_all=True, append_images=made[1:], duration=42, loop=0, lossless=True)
    return buffer.getvalue()


def test_a_loop_is_evenly_spread_frames() -> None:
    frames = animated.loop(webp(True))
    assert frames is not None and frames.shape == (24, 4, 128, 128) and frames.dtype == torch.uint8
    places = [float((one[3] > 128).nonzero()[:, 1].float().mean()) for one in frames]
    steps = np.diff(places)
    assert (steps > 0).all() and steps.max() < 2 * steps.mean()
    # Nothing hidden bleeds into what is seen: the square's own colour, to its edge.
    seen = frames[0][:, frames[0][3] > 200]
    assert (seen[:3].float().mean(1) - torch.tensor([200.0, 30.0, 30.0])).abs().max() < 3
    still = animated.loop(webp(False, 30))
    assert animated.loop(webp(True, 5)) is None
    # A second and a half goes around twice in the same time.
    short = animated.loop(webp(True, 36))
    assert short is not None and torch.equal(short[:12], short[12:]) and not torch.equal(short[0], short[6])
    assert animated.change(frames) > 20 and (still is None or animated.change(still) == 0)


def test_packages_to_a_file_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    concepts = small_concepts()
    files = {}
    for number, package in enumerate(animated.ANIMATED):
        files[package] = tmp_path / f"{number}.tgz"
        with tarfile.open(files[package], "w:gz") as archive:
            for code, moves in (("00-fe0f", True), ("01", False), ("ffff", True)) if number == 1 else ():
                data = webp(moves)
                entry = tarfile.TarInfo(f"package/assets/{code}.webp")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    monkeypatch.setattr(animated, "fetch", lambda packages, cache: files)
    out = tmp_path / "deep" / "animated.safetensors"
    made = animated.build(concepts, out)
    assert made == {"loops": 1, "static": 0}, "one is a single picture, and one no concept's"
    rgba, rows = animated.read(out)
    assert rgba.shape == (1, 24, 4, 128, 128) and rows == {"00": 0}
    old = tmp_path / "old.safetensors"
    safetensors.save({"rgba": rgba}, old, metadata={"frolic": '{"format": 1, "codes": ["00"]}'})
    with pytest.raises(FileError, match="another version"):
        animated.read(old)
    del rgba  # the file is mapped into memory
    out.write_bytes(out.read_bytes()[:1000])
    with pytest.raises(CheckpointError):
        animated.read(out)
    with pytest.raises(FileError, match="frolic data starter-video"):
        animated.read(tmp_path / "none")


def test_clips_of_loops_say_what_they_do() -> None:
    concepts = small_concepts()
    frames = animated.loop(webp(True))
    assert frames is not None
    loops = Loops({"00": 0}, {"00": ["going around"]})
    made = clips(concepts, 40, 3, {"loop": 1.0}, loops=loops)
    assert all(one.actors[0].loop == 0 and "cup" in one.captions[0] for one in made)
    assert any("a cup going around" in caption for one in made for caption in one.captions)
    shown = render_clip(small_sprites(), made[0], 48, 48, 17, frames[None])
    again = render_clip(small_sprites(), made[0], 48, 48, 17, frames[None])
    assert torch.equal(shown, again) and (shown[:, 1:].int() - shown[:, :-1].int()).abs().float().mean() > 0
    # Without loops the mix has no place for them.
    assert {one.kind for one in clips(concepts, 60, 3)} == {"one", "two", "around", "still"}


def test_what_is_headed_somewhere_goes_there() -> None:
    concepts, frames = small_concepts(), animated.loop(webp(True))
    assert frames is not None
    # Mirrored, it is headed the other way.
    for way in ("left", "right"):
        loops = Loops({"00": 0}, {"00": ["rolling", "turning"]}, {"00": "left"})
        made = clips(concepts, 60, 3, {"loop": 1.0}, loops=loops)
        going = [one for one in made if one.actors[0].move.kind == way]
        assert bool(going) is not reserved("motion", "00", way)
        assert {one.actors[0].move.kind for one in made} <= {"left", "right", "still"}
        for one in going:
            assert one.actors[0].mirror == (way == "right")
            assert f"rolling to the {way}" in one.captions[0] and not any("turning" in text for text in one.captions)
        assert not any(way in text for one in made if one not in going for text in one.captions)
    assert not (reserved("motion", "00", "left") and reserved("motion", "00", "right")), "the test needs one of them"
    there = Clip("loop", (Actor(0, 0, Move("still", 0.5, 0.5, 0.8), 0, 3),), "white", ("",))
    back = replace(there, actors=(replace(there.actors[0], mirror=True),))
    seen = [render_clip(small_sprites(), one, 48, 48, 9, frames[None]).int() for one in (there, back)]
    assert (seen[0].flip(-1) - seen[1]).abs().max() <= 2 < (seen[0] - seen[1]).abs().max()


def test_the_table_of_verbs_is_in_order() -> None:
    table, headings = animated.verbs(), animated.headings()
    assert len(table) > 640 and list(table) == sorted(table) and list(headings) == sorted(headings)
    for code, phrases in table.items():
        assert code == code.lower() == bare_code(code) and 1 <= len(phrases) <= 3
        assert all(phrase == phrase.strip().lower() and len(phrase.split()) <= 6 for phrase in phrases)
        # An empty one says that the name is enough; that makes no second phrase.
        assert phrases.count("") <= 1 and "" not in phrases[1:]
    assert set(headings) <= set(table) and set(headings.values()) <= {"left", "right"} and len(headings) > 60


def test_a_name_that_says_it_already_is_said_once() -> None:
    frames = animated.loop(webp(True))
    assert frames is not None
    made = clips(small_concepts(), 30, 4, {"loop": 1.0}, loops=Loops({"00": 0}, {"00": ["", "turning"]}))
    assert all("  " not in text and text == text.strip() for one in made for text in one.captions)
    firsts = {one.captions[0].partition(" on ")[0].partition(",")[0] for one in made if one.ground == "white"}
    assert firsts == {"a cup", "a cup turning"}
