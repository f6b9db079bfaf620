"""``frolic generate`` with a model of videos: a stand-in that draws what was asked for in no time."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clips import clip, timing
from frolic.errors import ResourceError
from frolic.io.media import read_record, read_texts
from frolic.io.video import read_frames
from frolic.pipeline import Inputs, Progress
from frolic.pipeline.result import ModelCard, Result
from frolic.request import Request
from frolic.spec import SamplingDefaults
from frolic.types import Latents

Command = Callable[..., Any]
DEFAULTS = SamplingDefaults(
    height=32,
    width=48,
    steps=6,
    guidance_scale=4.0,
    sampler="unipc",
    shift=3.0,
    max_tokens=32,
    frames=9,
    fps=16.0,
    boundary=0.9,
    guidance_scale_2=3.0,
)


class Step(Progress):
    def preview(self) -> list[Image.Image]:
        return [Image.fromarray(clip(1, 8, 8, seed=self.index)[0])]


@dataclass
class Film:
    """A pipeline of videos, and what it was given."""

    card: ModelCard
    defaults: SamplingDefaults = DEFAULTS
    asked: list[tuple[Request, Inputs]] = field(default_factory=list)
    seen: list[list[str]] = field(default_factory=list)
    rescue: Path | None = None
    compat: str = "diffusers"
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    preview: type[Progress] = Step

    def stream(self, request: Request, *, inputs: Inputs, tokens: int) -> Iterator[Progress | Result]:
        self.asked.append((request, inputs))
        given = inputs.read()
        given.check(request)
        request, notes = request.completed(self.defaults, 16)
        steps = request.steps or 0
        for index in range(steps * request.pictures):
            yield self.preview(index, steps * request.pictures, index // steps, Latents(torch.zeros(1)), self)  # type: ignore[arg-type]
            self.seen.append(sorted(path.name for path in Path.cwd().iterdir()))
        size = request.height or 0, request.width or 0
        drawn = [clip(request.frames or 1, *size, seed=seed % 1000) for seed in request.seeds]
        yield Result(
            images=() if request.is_video else tuple(Image.fromarray(frames[0]) for frames in drawn),
            pixels=None,
            request=request,
            seconds=1.0,
            notes=notes,
            model=self.card,
            settings={
                "shift": 3.0,
                "dtype": "float32",
                "device": "cpu",
                "torch": torch.__version__,
                "noise": "seed",
                **({"inputs": given.hashes()} if given.hashes() else {}),
                "compat": "diffusers",
            },
            batches=tuple((0, 1) for _ in request.seeds),
            tokens=8,
            videos=tuple(drawn) if request.is_video else (),
        )


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Film:
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")
    made = Film(ModelCard("film", "", "wan", (weights,)))
    plan = SimpleNamespace(defaults=DEFAULTS, notes=(), parts={}, name="film")
    monkeypatch.setattr("frolic.cli.generate._plan", lambda *_, **__: plan)

    def load(_: Any, rescue: Path) -> Film:
        made.rescue = rescue
        return made

    monkeypatch.setattr("frolic.cli.generate._load", load)
    return made


@pytest.fixture
def draw(command: Command, film: Film) -> Command:
    return lambda *arguments: command(*arguments, "-m", "film")


def here() -> list[str]:
    return sorted(path.name for path in Path.cwd().iterdir())


def test_a_prompt_draws_a_video(draw: Command) -> None:
    ran = draw("a rocket taking off", "-s", 7)
    assert (ran.code, ran.out, ran.err) == (0, "frolic-a-rocket-taking-off-7.mp4  seed 7\n", "")
    path = Path("frolic-a-rocket-taking-off-7.mp4")
    assert timing(path)[0] == 9 / 16 and read_frames(path).shape == (9, 32, 48, 3)
    assert read_record(path)["request"] == {
        "prompt": "a rocket taking off",
        "negative_prompt": "",
        "seed": 7,
        "steps": 6,
        "sampler": "unipc",
        "guidance_scale": 4.0,
        "guidance_scale_2": 3.0,
        "width": 48,
        "height": 32,
        "frames": 9,
        "fps": 16.0,
    }


@pytest.mark.parametrize(
    ("flags", "frames", "fps", "said"),
    [
        (("--frames", 13), 13, 16, ""),
        (("--frames", 14), 13, 16, "Drawn with 13 frames, the nearest that this model has to 14.\n"),
        (("--seconds", 1), 17, 16, "Drawn with 17 frames (1.06 s), the nearest that this model has to 1 s.\n"),
        (("--seconds", 0.7, "--fps", 30), 21, 30, ""),
        (("--fps", 24), 9, 24, ""),
    ],
)
def test_its_length_is_what_was_asked_for(
    draw: Command, flags: tuple[object, ...], frames: int, fps: int, said: str
) -> None:
    ran = draw("a rocket", "-s", 7, *flags, "-o", "a.mp4")
    assert (ran.code, ran.err) == (0, said)
    duration, shown = timing(Path("a.mp4"))
    assert len(shown) == frames and duration * fps == frames
    assert read_record(Path("a.mp4"))["request"]["frames"] == frames


@pytest.mark.parametrize("name", ["a.mp4", "a.MP4", "a.gif", "a.webp", "a/%04d.png"])
def test_a_video_is_drawn_again_from_any_of_its_files(draw: Command, command: Command, film: Film, name: str) -> None:
    flags = ("--frames", 5, "--size", "32x16", "--cfg", 6, "--guidance-scale-2", 2.5, "-n", "blurry", "--steps", 2)
    assert draw("a rocket", "-s", 2**63 - 1, *flags, "-o", name).code == 0
    file = name if "%" not in name else "a/0003.png"
    ran = draw("--from", file, "-o", "again.mp4")
    assert (ran.code, ran.err) == (0, "")
    assert read_record(Path("again.mp4")) == read_record(Path(file))
    (first, _), (second, _) = film.asked
    assert second.completed(DEFAULTS, 16)[0].picture(0) == first.completed(DEFAULTS, 16)[0].picture(0)
    shown = json.loads(command("info", file, "--json").out)
    assert shown["request"]["seed"] == 2**63 - 1 and shown["request"]["guidance_scale_2"] == 2.5


def test_info_of_a_video_is_for_people_too(draw: Command, command: Command) -> None:
    assert draw("a rocket", "-s", 7, "-o", "a.mp4").code == 0
    shown = command("info", "a.mp4")
    assert shown.code == 0 and "prompt: a rocket" in shown.out and "frames: 9" in shown.out
    Path("b.mp4").write_bytes(b"\0\0\0\x08ftyp")
    assert command("info", "b.mp4").code == command("info", "gone.mp4").code == 3


def test_from_a_video_with_changes(draw: Command) -> None:
    assert draw("a rocket", "-s", 7, "--frames", 5, "-o", "a.mp4").code == 0
    assert draw("--from", "a.mp4", "--seconds", 1, "-o", "b.mp4").code == 0
    assert draw("--from", "a.mp4", "--fps", 8, "-s", 9, "-o", "c.mp4").code == 0
    assert draw("--from", "a.mp4", "--frames", 1, "-o", "d.png").code == 0
    asked = [read_record(Path(name))["request"] for name in ("b.mp4", "c.mp4", "d.png")]
    assert [(said.get("frames", 1), said["fps"], said["seed"]) for said in asked] == [
        (17, 16, 7),
        (5, 8, 9),
        (1, 16, 7),
    ]


def test_several_videos_are_numbered(draw: Command) -> None:
    assert draw("a rocket", "-s", 7, "-N", 2, "-o", "a.mp4").out == "a-1.mp4  seed 7\na-2.mp4  seed 8\n"
    assert draw("a rocket", "-s", 7, "-N", 2, "-o", "a/%02d.png").out == "a-1/%02d.png  seed 7\na-2/%02d.png  seed 8\n"
    assert len(list(Path("a-2").iterdir())) == 9
    assert not np.array_equal(read_frames(Path("a-1/%02d.png")), read_frames(Path("a-2/%02d.png")))
    Path("folder").mkdir()
    assert draw("a rocket", "-s", 7, "-o", "folder").code == 0 and Path("folder/frolic-a-rocket-7.mp4").is_file()
    assert draw("a rocket", "-s", 7, "-o", "folder").code == 3
    assert [draw("a rocket", "-s", 7).out.split()[0] for _ in "12"] == [
        "frolic-a-rocket-7.mp4",
        "frolic-a-rocket-7-2.mp4",
    ]


def test_one_frame_is_a_picture(draw: Command) -> None:
    assert draw("a rocket", "-s", 7, "--frames", 1).out == "frolic-a-rocket-7.png  seed 7\n"
    ran = draw("a rocket", "-s", 7, "--frames", 1, "-o", "a.mp4")
    assert ran.code == 2 and "the name of a video, and this is a picture; end it in .png" in ran.err
    assert draw("a rocket", "--frames", 1, "-o", "new/%04d.png").code == 2


def test_latents_are_kept_in_a_folder_that_is_there(draw: Command, film: Film) -> None:
    assert draw("a rocket", "-o", "frames/%04d.png").code == 0
    assert film.rescue == Path() and Path("frames").is_dir()


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("-o", "a.png"), 2, "a.png is not the name of a video; end it in .mp4, .gif or .webp"),
        (("-o", "a.avi"), 2, "a.avi is not the name of a picture or a video"),
        (("-o", "gone/a.mp4"), 3, "no folder gone"),
        (("-o", "gone/new/%04d.png"), 3, "no folder gone"),
        (("-o", "%04d.png"), 2, "without a new folder"),
        (("-o", "mine.mp4"), 3, "already exists"),
        (("--fps", "60", "-o", "a.gif"), 2, "at most 50 frames a second"),
        (("--frames", "0"), 2, "frames is 0, it must be 1 to 1025"),
        (("--frames", "1000000"), 2, "frames is 1000000"),
        (("--frames", "many"), 2, "invalid int value"),
        (("--seconds", "-1"), 2, "seconds is -1.0"),
        (("--seconds", "nan"), 2, "seconds is nan"),
        (("--seconds", "2", "--frames", "33"), 2, "leave out frames"),
        (("--seconds", "100"), 2, "100 s at 16 frames a second are 1600 frames, the most is 1025"),
        (("--fps", "0"), 2, "fps is 0.0, it must be 1 to 120"),
        (("--guidance-scale-2", "-1"), 2, "guidance_scale_2 is -1.0"),
        (("--size", "100000x2"), 2, "width is 100000"),
        (("--image", "gone.png"), 3, "no file gone.png"),
        (("--image", "text.png"), 3, "text.png cannot be read as a picture"),
        (("--image", "bomb.png"), 3, "more than can be used"),
        (("--preview-every", "0"), 2, "--preview-every is 0, it must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_drawn(
    draw: Command, film: Film, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.setattr("frolic.cli.generate._load", lambda *_: pytest.fail("the model was loaded"))
    Path("mine.mp4").write_bytes(b"mine")
    Path("text.png").write_text("no picture")
    Image.new("1", (9000, 9000)).save("bomb.png")
    before = here()
    ran = draw("a rocket", *flags)
    assert ran.code == code and said in ran.err and ran.err.count("\n") == 1 and ran.out == ""
    assert here() == before and Path("mine.mp4").read_bytes() == b"mine"


def test_a_model_of_pictures_refuses_what_is_for_videos(
    command: Command, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frolic.cli.generate._load", lambda *_: pytest.fail("the model was loaded"))
    flags = ("--frames", 9, "--fps", 16, "--guidance-scale-2", 3)
    ran = command("a cat", *flags, "-m", tiny_folder, "--device", "cpu")
    assert ran.code == 2 and "frames, fps and guidance_scale_2 need a model of videos" in ran.err
    ran = command("a cat", "-o", "a.mp4", "-m", tiny_folder, "--device", "cpu")
    assert ran.code == 2 and "end it in .png" in ran.err and here() == []


def test_an_image_is_where_a_video_begins_and_keeps_its_strength(draw: Command, film: Film) -> None:
    Image.fromarray(clip(1)[0]).save("first.png")
    assert draw("a rocket", "-s", 7, "--image", "first.png", "-o", "a.mp4").code == 0
    request, inputs = film.asked[0]
    assert request.strength == 1 and inputs.read().size == (48, 64)
    assert draw("--from", "a.mp4", "--image", "first.png", "-o", "b.mp4").code == 0
    assert read_record(Path("b.mp4")) == read_record(Path("a.mp4"))
    ran = draw("--from", "a.mp4", "-o", "c.mp4")
    assert ran.code == 2 and "was made with an --image; give that one" in ran.err


def test_an_odd_size_is_said(draw: Command) -> None:
    ran = draw("a rocket", "-s", 7, "--size", "31x16", "-o", "a.mp4")
    assert ran.code == 0 and "a.mp4 is 32x16, its last row or column twice" in ran.err
    assert draw("a rocket", "-s", 7, "--size", "31x16", "-o", "a.webp").err.count("\n") == 1


def test_metadata_can_be_left_out(draw: Command) -> None:
    for name in ("a.mp4", "a.gif", "a.webp", "a/%d.png"):
        assert draw("a rocket", "-s", 7, "--no-metadata", "-o", name).code == 0
        assert read_texts(Path(name if "%" not in name else "a/1.png")) == {}
        assert draw("--from", name if "%" not in name else "a/1.png").code == 3


def test_json_lines_name_the_video(draw: Command) -> None:
    ran = draw("a rocket", "-s", 7, "--steps", 2, "--frames", 6, "--json", "-o", "a.mp4")
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert [event["event"] for event in events] == ["start", "step", "step", "note", "video", "done"]
    assert events[4] == {"event": "video", "path": "a.mp4", "seed": 7, "prompt": "a rocket"}
    assert events[2]["eta_s"] == 0.0


def test_previews_are_shown_while_it_runs_and_are_gone_in_the_end(draw: Command, film: Film) -> None:
    ran = draw("a rocket", "-s", 7, "--steps", 4, "--preview-every", 2, "-o", "a.mp4", "--json")
    assert ran.code == 0 and here() == ["a.mp4"]
    assert film.seen == [[], ["a.preview.png"], ["a.preview.png"], ["a.preview.png"]]
    shown = [json.loads(line) for line in ran.out.splitlines() if '"preview"' in line]
    assert shown == [{"event": "preview", "path": "a.preview.png", "step": 2}]
    film.seen.clear()
    assert draw("a rocket", "-N", 2, "--steps", 2, "--preview-every", 1, "-o", "f/%d.png").code == 0
    assert film.seen[-1] == ["a.mp4", "f-1.preview.png", "f-2.preview.png"] and here() == ["a.mp4", "f-1", "f-2"]


def test_previews_go_when_it_fails_and_replace_nothing(draw: Command, film: Film) -> None:
    Path("a.preview.png").write_bytes(b"mine")
    assert draw("a rocket", "--preview-every", 1, "-o", "a.mp4").code == 3
    assert Path("a.preview.png").read_bytes() == b"mine"

    class Failing(Step):
        def preview(self) -> list[Image.Image]:
            if self.index == 2:
                raise ZeroDivisionError
            return super().preview()

    film.preview = Failing
    ran = draw("a rocket", "--preview-every", 1, "-o", "b.mp4")
    assert ran.code == 1 and here() == ["a.preview.png"]


def test_a_preview_that_cannot_be_made_is_said_and_the_video_is_drawn(draw: Command, film: Film) -> None:
    class Short(Step):
        def preview(self) -> list[Image.Image]:
            raise ResourceError("Memory ran out.")

    film.preview = Short
    ran = draw("a rocket", "-s", 7, "--preview-every", 1, "-o", "a.mp4")
    assert ran.code == 0 and ran.err == "No more previews: Memory ran out.\n" and here() == ["a.mp4"]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a/%04d.png"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(draw: Command, name: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        ran = draw("a rocket", "-s", 7, "-o", name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ran.code == 4 and "There is no room on the disk" in ran.err and ran.err.count("\n") == 1
    assert here() == []
