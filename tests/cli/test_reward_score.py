"""``frolic reward score``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from frolic.errors import FileError, RequestError
from frolic.io.media import SCHEMA, encode_png
from frolic.io.video import save_video
from frolic.rewards import make_reward
from frolic.rewards.files import read_clip, spread

Command = Callable[..., Any]


def record(prompt: str) -> dict[str, Any]:
    request = {"prompt": prompt, "negative_prompt": "", "steps": 1, "sampler": "euler", "guidance_scale": 1.0}
    request |= {"seed": 0, "width": 12, "height": 8}
    return {"schema": 1, "version": "0", "request": request, "model": {"name": "m", "hash": "0" * 64}, "shift": 1.0}


def frames(count: int, seed: int = 0) -> np.ndarray:
    """Slow, smooth noise, so that encoders keep it."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, max(2, count // 4), 2, 3, generator=generator)
    x = torch.nn.functional.interpolate(coarse, size=(count, 32, 48), mode="trilinear", align_corners=True)
    return np.ascontiguousarray((x[0].permute(1, 2, 3, 0) * 255).byte().numpy())


@pytest.fixture
def place(command: Command) -> Path:
    """Pictures and clips, in the folder that the command runs in."""
    here = Path.cwd()
    still = Image.fromarray(frames(1)[0])
    (here / "own.png").write_bytes(encode_png(still, record('a sign that says "hi"')))
    still.save(here / "plain.jpg", quality=95)
    still.save(here / "still.webp", lossless=True)
    see_through = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    see_through.save(here / "clear.png")
    save_video(frames(12), here / "clip.mp4", fps=8, record=record("a dog"))
    save_video(frames(12), here / "clip.gif", fps=8)
    save_video(frames(12), here / "clip.webp", fps=8, record=record("a dog"))
    save_video(frames(12), here / "frames" / "%d.png", fps=8, record=record("a dog"))
    return here


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_table_of_all_kinds(place: Path, command: Command) -> None:
    files = ["own.png", "plain.jpg", "still.webp", "clip.mp4", "clip.gif", "clip.webp", "frames", "frames/%d.png"]
    ran = command("reward", "score", *files, "-r", "bright", "-r", "vivid")
    assert ran.code == 0, ran.err
    head, *rows = [line.split() for line in ran.out.splitlines()]
    assert head == ["file", "bright", "vivid"] and [row[0] for row in rows] == files
    of = {row[0]: [float(cell) for cell in row[1:]] for row in rows}
    still = torch.from_numpy(frames(1)[0]).permute(2, 0, 1)[None, None] / 255
    for number, name in enumerate(("bright", "vivid")):
        true = float(make_reward(name).score(still, [""]))
        assert of["own.png"][number] == of["still.webp"][number] == pytest.approx(true, abs=1e-4)
        assert of["plain.jpg"][number] == pytest.approx(true, abs=0.02)
        clip = torch.from_numpy(frames(12)).permute(0, 3, 1, 2)[None] / 255
        whole = float(make_reward(name).score(clip, [""]))
        assert of["frames"][number] == of["frames/%d.png"][number] == pytest.approx(whole, abs=1e-4)
        assert of["clip.webp"][number] == pytest.approx(whole, abs=0.02)
        assert of["clip.mp4"][number] == pytest.approx(whole, abs=0.03)


def test_json_says_the_prompt_and_the_frames(place: Path, command: Command) -> None:
    (place / "scorer.py").write_text("def words(frames, prompts): return [len(p.split()) for p in prompts]")
    spec = "python:scorer.py:words"
    ran = command("reward", "score", "own.png", "clip.mp4", "frames", "-r", spec, "--frames", 5, "--json")
    assert ran.code == 0, ran.out
    own, clip, folder = lines(ran.out)
    assert own == {
        "event": "score",
        "path": "own.png",
        "prompt": 'a sign that says "hi"',
        "frames": 1,
        "of": 1,
        "scores": {spec: 5.0},
    }
    for found in (clip, folder):
        assert (found["frames"], found["of"], found["prompt"], found["scores"]) == (5, 12, "a dog", {spec: 2.0})
    ran = command("reward", "score", "own.png", "plain.jpg", "-r", spec, "--prompt", "one", "--json")
    assert [line["scores"][spec] for line in lines(ran.out)] == [1, 1]


def test_evenly_spaced_frames() -> None:
    assert spread(3, 16) == [0, 1, 2] and spread(81, 5) == [0, 20, 40, 60, 80]
    assert spread(10, 1) == [5] and spread(1, 1) == [0] and spread(10, 2) == [0, 9]


def test_of_a_long_clip_only_the_chosen_frames_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = (
        np.repeat(np.arange(100, dtype=np.uint8)[:, None, None, None], 16, axis=1).repeat(16, axis=2).repeat(3, axis=3)
    )
    save_video(2 * shown, tmp_path / "long.webp", fps=25)
    monkeypatch.setattr("frolic.io.video._MAX_BYTES", 6 * shown[0].nbytes)
    clip = read_clip(tmp_path / "long.webp", 5)
    assert clip.total == 100 and clip.frames[:, 8, 8, 0].tolist() == [0, 50, 100, 148, 198]
    monkeypatch.setattr("frolic.io.video.MOST_READ", 99)
    with pytest.raises(FileError, match="more than 99 frames"):
        read_clip(tmp_path / "long.webp", 5)


def test_frames_in_the_order_of_their_numbers(place: Path) -> None:
    assert np.array_equal(read_clip(place / "frames").frames, frames(12)), "10.png is after 9.png"
    assert np.array_equal(read_clip(place / "frames", 2).frames, frames(12)[[0, 11]])


def test_what_is_see_through_is_over_white(place: Path, command: Command) -> None:
    ran = command("reward", "score", "clear.png", "-r", "bright", "--json")
    assert lines(ran.out)[0]["scores"]["bright"] == pytest.approx(1)


def test_rewards_together(place: Path, command: Command) -> None:
    Image.new("RGB", (32, 32), (250, 10, 10)).save(place / "red.png")
    Image.new("RGB", (32, 32), (200, 200, 200)).save(place / "grey.png")
    files = ("own.png", "red.png", "grey.png")
    ran = command("reward", "score", *files, "-r", "vivid", "-r", "bright:-2", "--combine", "sum", "--json")
    rows = lines(ran.out)
    found = np.array([[row["scores"]["vivid"], row["scores"]["bright"]] for row in rows])
    scaled = (found - found.mean(0)) / found.std(0, ddof=1)
    assert [row["together"] for row in rows] == pytest.approx((scaled @ (1, -2)).tolist(), abs=1e-4)
    ran = command("reward", "score", *files, "-r", "bright", "--combine", "rank")
    assert ran.out.splitlines()[0].split()[-1] == "rank"
    assert sorted(float(line.split()[-1]) for line in ran.out.splitlines()[1:]) == [0, 0.5, 1]
    ran = command("reward", "score", *files, "-r", "bright:2", "-r", "vivid")
    assert ran.code == 2 and "--combine" in ran.err
    ran = command("reward", "score", "own.png", "-r", "bright", "-r", "vivid", "--combine", "sum")
    assert ran.code == 2 and "two or more" in ran.err
    ran = command("reward", "score", *files, "-r", "bright", "--combine", "most")
    assert ran.code == 2 and "not by 'most'" in ran.err


def test_all_that_cannot_be_read_is_one_error(place: Path, command: Command) -> None:
    whole = (place / "own.png").read_bytes()
    (place / "cut.png").write_bytes(whole[: len(whole) // 2])
    (place / "cut.mp4").write_bytes((place / "clip.mp4").read_bytes()[:200])
    (place / "empty").mkdir()
    (place / "mixed").mkdir()
    Image.new("RGB", (4, 4)).save(place / "mixed" / "1.png")
    Image.new("RGB", (4, 5)).save(place / "mixed" / "2.png")
    (place / "text.jpg").write_text("no picture")
    wrong = ["cut.png", "cut.mp4", "empty", "mixed", "text.jpg", "none.png"]
    ran = command("reward", "score", "own.png", *wrong, "-r", "bright")
    assert ran.code == 3 and not ran.out and "6 of 7 files" in ran.err
    assert all(name in ran.err for name in wrong) and "Traceback" not in ran.err
    ran = command("reward", "score", "own.png", "none.png", "-r", "bright", "--json")
    assert ran.code == 3 and lines(ran.out)[0]["event"] == "error"


def quoting(self: Any, prompts: list[str]) -> None:
    if '"' not in prompts[0]:
        raise RequestError(f"nothing is quoted in {prompts[0]!r}")


def test_what_does_not_suit_the_files_is_one_error(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "scorer.py").write_text("def words(frames, prompts): return [0.0]")
    ran = command("reward", "score", "own.png", "plain.jpg", "clip.gif", "-r", "lively", "-r", "python:scorer.py:words")
    assert ran.code == 2 and "lively needs 3 frames, and there are fewer of own.png, plain.jpg" in ran.err
    assert "python:scorer.py:words reads the prompt, and none is recorded in plain.jpg, clip.gif" in ran.err
    assert command("reward", "score", "clip.mp4", "-r", "lively").code == 0
    # A prompt that a reward has no use for is found before anything is scored.
    (place / "quotes.py").write_text("def words(frames, prompts): raise AssertionError('nothing is scored')")
    monkeypatch.setattr("frolic.rewards.called.Called.check_prompts", quoting, raising=False)
    ran = command("reward", "score", "own.png", "clip.mp4", "-r", "python:quotes.py:words")
    assert ran.code == 2 and "clip.mp4: nothing is quoted in 'a dog'" in ran.err and "own.png" not in ran.err
    assert "lively needs 3" in command("reward", "score", "clip.mp4", "-r", "lively", "--frames", 2).err


def test_a_number_that_is_none_names_the_reward_and_the_file(place: Path, command: Command) -> None:
    (place / "scorer.py").write_text("def bad(frames, prompts): return [float('nan')]")
    ran = command("reward", "score", "own.png", "-r", "python:scorer.py:bad")
    assert ran.code == 3 and "scorer.py:bad" in ran.err and "no finite number" in ran.err


def test_wrong_rewards_and_devices(place: Path, command: Command) -> None:
    ran = command("reward", "score", "own.png", "-r", "brigt", "-r", "loop:0")
    assert ran.code == 2 and "did you mean 'bright'" in ran.err and "loop:0" in ran.err
    ran = command("reward", "score", "own.png", "-r", "bright", "--device", "tpu")
    assert ran.code == 2 and "not a device" in ran.err
    assert command("reward", "score", "own.png").code == 2


def test_many_files_are_read_again_instead_of_kept(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = command("reward", "score", "own.png", "clip.gif", "-r", "bright", "-r", "vivid").out
    monkeypatch.setattr("frolic.cli.reward_score._KEPT", 0)
    assert command("reward", "score", "own.png", "clip.gif", "-r", "bright", "-r", "vivid").out == before


def test_a_record_that_is_none_has_no_prompt(tmp_path: Path) -> None:
    for request in ([], None, 3):
        info = PngInfo()
        info.add_text("frolic", json.dumps({"schema": SCHEMA, "request": request}))
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
        assert read_clip(tmp_path / "a.png").prompt is None
