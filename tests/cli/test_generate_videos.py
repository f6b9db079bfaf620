"""``frolic PROMPT`` with a model that makes videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import frolic
from clips import timing
from frolic.errors import FileError
from frolic.io.media import read_record
from frolic.io.video import read_frames
from frolic.models.wan_vae import WanVAE
from frolic.pipeline import clips
from frolic.pipeline.kept import Kept
from tiny_wan import write_tiny_wan

Command = Callable[..., Any]
SIZE = ("--size", "48x32", "--steps", "3")
KEPT = "frolic-1.latents.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wan")
    for kind in ("t2v-two", "ti2v", "i2v-two"):
        write_tiny_wan(place / kind, kind)
    return place


def test_a_video_is_an_mp4_that_can_be_made_again(command: Command, models: Path) -> None:
    model = models / "t2v-two"
    done = command("a rocket taking off", "-m", model, "--frames", 10, "--fps", 8, "-s", 5, *SIZE, "--json")
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    (made,) = [event for event in events if event["event"] == "video"]
    path = Path(made["path"])
    assert path.name == "frolic-a-rocket-taking-off-5.mp4"
    assert any("9 frames, the nearest" in event.get("message", "") for event in events)
    assert any("eta_s" in event for event in events if event["event"] == "step")
    assert read_frames(path).shape == (9, 32, 48, 3) and timing(path)[0] == 9 / 8
    request = read_record(path)["request"]
    assert (request["frames"], request["fps"], request["seed"]) == (9, 8.0, 5)
    assert command("--from", path, "-m", model, "-o", "again.webp").code == 0
    assert (
        command("a rocket taking off", "-m", model, "--frames", 9, "--fps", 8, "-s", 5, *SIZE, "-o", "b.webp").code == 0
    )
    assert np.array_equal(read_frames(Path("again.webp")), read_frames(Path("b.webp")))
    assert json.loads(command("info", path, "--json").out)["request"] == request
    # Changing the guidance of one expert changes both, as in a new request.
    assert command("--from", path, "-m", model, "--cfg", 8, "-o", "c.webp").code == 0
    changed = read_record(Path("c.webp"))["request"]
    assert changed["guidance_scale"] == changed["guidance_scale_2"] == 8.0


@pytest.mark.parametrize("name", ["clip.webp", "clip.gif", "frames/%04d.png"])
def test_other_kinds_of_files(command: Command, models: Path, name: str) -> None:
    assert command("two dogs", "-m", models / "t2v-two", "--seconds", 0.5, "--fps", 8, *SIZE, "-o", name).code == 0
    assert read_frames(Path(name)).shape[0] == 5
    if "%" in name:
        assert sorted(path.name for path in Path("frames").iterdir()) == [f"000{number}.png" for number in range(1, 6)]


def test_one_frame_is_a_png(command: Command, models: Path) -> None:
    assert command("two dogs", "-m", models / "t2v-two", "--frames", 1, *SIZE, "-o", "still.png").code == 0
    assert Image.open("still.png").size == (48, 32)


def test_a_preview_is_there_only_while_it_runs(command: Command, models: Path) -> None:
    done = command("two dogs", "-m", models / "t2v-two", "--frames", 5, *SIZE, "-o", "a.mp4", "--preview-every", 2)
    assert done.code == 0
    assert sorted(path.name for path in Path().iterdir()) == ["a.mp4"]


def test_a_video_begins_with_a_picture(command: Command, models: Path) -> None:
    Image.new("RGB", (96, 64), (200, 40, 40)).save("red.png")
    for kind in ("ti2v", "i2v-two"):
        done = command("two dogs", "-m", models / kind, "--image", "red.png", "--frames", 5, *SIZE, "-o", f"{kind}.mp4")
        assert done.code == 0, done.err
    assert "image" in read_record(Path("ti2v.mp4"))["inputs"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--frames", 0), "frames is 0"),
        (("--frames", 5000), "frames is 5000"),
        (("--frames", 5, "--seconds", 1), "leave out frames"),
        (("--fps", 0), "fps is 0"),
        (("-o", "a.avi"), "is not the name of a picture or a video"),
        (("-o", "a.png", "--frames", 5), "end it in .mp4"),
        (("--mask", "red.png", "--image", "red.png", "--frames", 5), "mask"),
        (("--image", "red.png", "--frames", 5), "of a text alone"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    command: Command, models: Path, arguments: tuple[Any, ...], said: str
) -> None:
    Image.new("RGB", (48, 32)).save("red.png")
    done = command("two dogs", "-m", models / "t2v-two", *SIZE, *arguments)
    assert done.code == 2 and said in done.err, done.err
    assert [path.name for path in Path().iterdir()] == ["red.png"]


def test_a_first_frame_that_is_missing_or_no_picture(command: Command, models: Path) -> None:
    done = command("two dogs", "-m", models / "i2v-two", "--frames", 5, *SIZE)
    assert done.code == 2 and "give --image" in done.err
    Path("notes.png").write_text("not a picture")
    done = command("two dogs", "-m", models / "ti2v", "--image", "notes.png", "--frames", 5, *SIZE)
    assert done.code == 3 and "cannot be read as a picture" in done.err


def test_a_picture_model_makes_no_videos(command: Command, tiny_folder: Path) -> None:
    done = command("a cat", "-m", tiny_folder, "--frames", 5)
    assert done.code == 2 and "this one draws pictures" in done.err
    done = command("a cat", "-m", tiny_folder, "-o", "a.mp4")
    assert done.code == 2 and "end it in .png" in done.err


def test_a_missing_expert(command: Command, models: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(models / "t2v-two", tmp_path / "torn")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "transformer_2": [None, None]}))
    done = command("a cat", "-m", folder)
    assert done.code == 3 and "transformer_2" in done.err


@pytest.mark.parametrize("memory", ["low", "full"])
def test_experts_one_after_the_other_draw_the_same(command: Command, models: Path, memory: str) -> None:
    done = command(
        "two dogs", "-m", models / "t2v-two", "--memory", memory, "--frames", 5, "-s", 1, *SIZE, "-o", "a.webp"
    )
    assert done.code == 0
    assert command("two dogs", "-m", models / "t2v-two", "--frames", 5, "-s", 1, *SIZE, "-o", "b.webp").code == 0
    assert np.array_equal(read_frames(Path("a.webp")), read_frames(Path("b.webp")))


@pytest.mark.parametrize(("frames", "kind", "ending"), [(5, "video", ".mp4"), (1, "image", ".png")])
def test_latents_that_were_kept_become_the_same_video(
    command: Command, models: Path, monkeypatch: pytest.MonkeyPatch, frames: int, kind: str, ending: str
) -> None:
    given = ("two dogs", "-m", models / "t2v-two", "--frames", frames, "--fps", 8, "-s", 1, *SIZE)

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(WanVAE, "stream_decode", full)
        patch.setattr(clips, "decode_tiled", full)
        done = command(*given)
        assert done.code == 4 and KEPT in done.err and [path.name for path in Path().iterdir()] == [KEPT], done.err
    done = command("--resume-decode", KEPT, "-m", models / "t2v-two", "--json")
    assert done.code == 0, done.err
    (made,) = [event for line in done.out.splitlines() if (event := json.loads(line))["event"] == kind]
    assert made == {"event": kind, "path": f"frolic-two-dogs-1{ending}", "seed": 1, "prompt": "two dogs"}
    assert command(*given, "-o", f"whole{ending}").code == 0
    assert Path(f"whole{ending}").read_bytes() == Path(made["path"]).read_bytes()
    if kind == "video":
        assert timing(Path(made["path"]))[0] == 5 / 8


def test_kept_latents_whose_record_is_not_theirs(models: Path, tmp_path: Path) -> None:
    result = frolic.load(models / "t2v-two")("two dogs", seed=1, steps=1, height=32, width=32, frames=5)
    record = result.record()
    whole = Kept(torch.zeros(1, 4, 2, 4, 4), (record,))
    assert Kept.read(whole.save(tmp_path)).records == (record,)
    for change in ({"frames": 1}, {"frames": "5"}, {"frames": None}, {"fps": None}, {"fps": -1}):
        torn = {**record, "request": {**record["request"], **change}}
        with pytest.raises(FileError, match="does not hold latents that frolic kept"):
            Kept.read(replace(whole, records=(torn,)).save(tmp_path))


def test_a_plan_says_what_a_video_would_take(command: Command, models: Path) -> None:
    def planned(*arguments: Any) -> dict[str, Any]:
        done = command("two dogs", "-m", models / "t2v-two", "--dry-run", "--json", *arguments)
        assert done.code == 0, done.err
        return dict(json.loads(done.out.splitlines()[-1]))

    short, long = planned("--frames", 17, "--size", "96x96"), planned("--frames", 81, "--size", "96x96")
    assert short["size"] == "96x96, 17 frames"
    assert [part["name"] for part in short["parts"]] == ["transformer", "vae", "text_encoder", "transformer_2"]

    def working(plan: dict[str, Any], name: str) -> int:
        return next(int(part["working"]) for part in plan["parts"] if part["name"] == name)

    assert working(long, "transformer") == 21 / 5 * working(short, "transformer") == working(long, "transformer_2")
    # Only the frames themselves grow with their number when they are decoded.
    assert working(long, "vae") - working(short, "vae") == 64 * 96 * 96 * 12
