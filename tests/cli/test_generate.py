from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from frolic.io.media import encode_png, read_record, read_texts
from frolic.io.tokenizer import Tokenizer

Command = Callable[..., Any]


def pixels(path: Path | str) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


@pytest.fixture
def draw(command: Command, tiny_folder: Path) -> Command:
    return lambda *arguments: command(*arguments, "-m", tiny_folder, "--device", "cpu")


def test_a_prompt_draws_a_picture(draw: Command) -> None:
    ran = draw("a", "Red", "panda!", "--seed", 7)
    assert (ran.code, ran.out, ran.err) == (0, "frolic-a-red-panda-7.png  seed 7\n", "")
    assert read_record(Path("frolic-a-red-panda-7.png"))["request"]["prompt"] == "a Red panda!"


def test_a_seed_that_was_left_out_is_printed_and_works(draw: Command) -> None:
    first = draw("a red panda")
    name, _, seed = first.out.split()
    assert draw("a red panda", "-s", seed, "-o", "again.png").code == 0
    assert pixels(name) == pixels("again.png")


def test_all_everyday_flags(draw: Command) -> None:
    ran = draw(
        *("a red panda", "-n", "blurry", "--steps", 2, "--cfg", 2.5, "-s", 9, "-W", 24, "-H", 40, "-N", 2),
        *("--sampler", "euler", "--dtype", "float32", "-o", "out.png"),
    )
    assert ran.code == 0 and ran.out == "out-1.png  seed 9\nout-2.png  seed 10\n"
    assert read_record(Path("out-2.png"))["request"] == {
        "prompt": "a red panda",
        "negative_prompt": "blurry",
        "seed": 10,
        "steps": 2,
        "guidance_scale": 2.5,
        "sampler": "euler",
        "width": 24,
        "height": 40,
    }
    with Image.open("out-1.png") as image:
        assert image.size == (24, 40)


def test_default_names_never_replace_a_file(draw: Command) -> None:
    outputs = [draw("a cat", "-s", 1).out.split()[0] for _ in range(3)]
    assert outputs == ["frolic-a-cat-1.png", "frolic-a-cat-1-2.png", "frolic-a-cat-1-3.png"]
    assert draw("a cat", "-s", 1, "--force").out.split()[0] == "frolic-a-cat-1.png"


def test_a_folder_is_a_place_for_pictures(draw: Command) -> None:
    Path("pictures").mkdir()
    assert draw("../../etc: 猫", "-s", 1, "-o", "pictures").code == 0
    assert [path.name for path in Path("pictures").iterdir()] == ["frolic-etc-猫-1.png"]
    assert draw("../../etc: 猫", "-s", 1, "-o", "pictures").code == 3


def test_prompts_come_from_a_file_or_standard_input(draw: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("prompts.txt").write_text("\ufeffa red panda\n\n  an orange cat \r\n", encoding="utf-8")
    assert draw("--prompt-file", "prompts.txt", "-s", 1).out.splitlines() == [
        "frolic-a-red-panda-1.png  seed 1",
        "frolic-an-orange-cat-2.png  seed 2",
    ]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"two dogs")))
    assert draw("--prompt-file", "-", "-s", 1).out == "frolic-two-dogs-1.png  seed 1\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_prompts_come_from_a_pipe_and_from_no_device(draw: Command) -> None:
    """A shell's <(...) is a pipe."""
    os.mkfifo("prompts")
    writer = threading.Thread(target=lambda: Path("prompts").write_text("two dogs\n"))
    writer.start()
    assert draw("--prompt-file", "prompts", "-s", 1).out == "frolic-two-dogs-1.png  seed 1\n"
    writer.join()
    refused = draw("--prompt-file", os.devnull)
    assert refused.code == 3 and f"{os.devnull} is no regular file" in refused.err


def test_json_lines_tell_the_whole_story(draw: Command) -> None:
    ran = draw("a red panda", "-s", 3, "--steps", 2, "--size", "30x32", "--json")
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.err == "" and ran.code == 0
    assert [event["event"] for event in events] == ["start", "step", "step", "note", "image", "done"]
    assert events[0]["seeds"] == [3] and events[0]["model"] == "tiny"
    assert events[1] == {"event": "step", "step": 1, "total": 2}
    assert events[2] == {"event": "step", "step": 2, "total": 2, "eta_s": 0.0}
    assert "Drawn at 32x32" in events[3]["message"]
    assert events[4] == {"event": "image", "path": "frolic-a-red-panda-3.png", "seed": 3, "prompt": "a red panda"}


def test_a_rounded_size_is_said(draw: Command) -> None:
    ran = draw("a red panda", "-s", 3, "--size", "30x33")
    assert ran.code == 0 and "Drawn at 32x36 and brought to 30x33." in ran.err


def test_quiet_says_nothing(draw: Command) -> None:
    ran = draw("a red panda", "-s", 3, "-q", "--size", "30x32")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_a_terminal_gets_a_progress_bar(draw: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ran = draw("a red panda", "-s", 3, "--steps", 3, "--size", "30x32")
    assert ran.code == 0
    _, *bars, blank, note = ran.err.split("\r")
    assert [bar.split()[-1] for bar in bars] == ["1/3", "2/3", "3/3"]
    assert [bar.count("#") for bar in bars] == [10, 20, 30] and all(bar.startswith("drawing ") for bar in bars)
    assert blank == " " * len(bars[-1]) and note == "Drawn at 32x32 and brought to 30x32.\n"
    for option in ("--quiet", "--json"):
        assert draw("a red panda", "-s", 3, option).err == ""


def test_a_bar_is_wiped_before_an_error(draw: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("frolic.pipeline.draw.Pipeline._decode_checked", lambda *_: 1 / 0)
    ran = draw("a red panda", "-s", 3, "--steps", 1)
    assert ran.code == 1 and ran.err.split("\r")[-1].startswith("frolic failed") and ran.err.split("\r")[-2].isspace()


def test_metadata_can_be_left_out(draw: Command) -> None:
    assert draw("a red panda", "-s", 3, "--no-metadata", "-o", "a.png").code == 0
    assert read_texts(Path("a.png")) == {}
    ran = draw("--from", "a.png")
    assert ran.code == 3 and "does not say how it was made" in ran.err


def test_from_a_picture_the_same_pixels_are_drawn(draw: Command) -> None:
    assert draw("a red panda", "-s", 3, "-N", 3, "-o", "a.png", "-n", "blurry", "--steps", 4).code == 0
    for index in (1, 3):
        ran = draw("--from", f"a-{index}.png", "-o", f"again-{index}.png")
        assert ran.code == 0 and ran.out == f"again-{index}.png  seed {2 + index}\n"
        assert pixels(f"a-{index}.png") == pixels(f"again-{index}.png")
        again = {**read_record(Path(f"again-{index}.png"))}
        assert again == read_record(Path(f"a-{index}.png"))


LONG = "a red panda eating ramen on a green field under the moon and two dogs " * 2


@pytest.mark.parametrize(
    ("limit", "step", "dtype"),
    [(8, 32, "float32"), (100, 32, "float32"), (100, 8, "float32"), (100, 8, "bfloat16")],
)
def test_from_a_picture_that_had_a_longer_prompt_beside_it(
    command: Command,
    own_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    step: int,
    dtype: str,
) -> None:
    """Up to 8 tokens this model folds its text into its weights. In steps of 8 a short prompt alone would be folded,
    which it was not beside the long one."""
    monkeypatch.setattr("frolic.pipeline.denoise._TEXT_STEP", step)
    path = own_folder / "frolic.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_tokens": limit}))
    Path("prompts.txt").write_text(f"a red panda\n{LONG}\nan orange cat\n")
    model = ("-m", own_folder, "--device", "cpu")
    assert command("--prompt-file", "prompts.txt", "-s", 3, "-o", "a.png", *model, "--dtype", dtype).code == 0
    tokens = Tokenizer(own_folder / "tokenizer" / "tokenizer.json").count(LONG.strip())
    assert tokens > 16, "longer than what is folded"
    assert read_record(Path("a-1.png"))["batch"] == [0, 3, min(limit, -(-tokens // step) * step)]
    for index in (1, 2, 3):
        ran = command("--from", f"a-{index}.png", "-o", f"again-{index}.png", *model)
        assert ran.code == 0 and ran.err.count("\n") == (limit == 8 and index == 2)
        assert pixels(f"a-{index}.png") == pixels(f"again-{index}.png")
        assert read_record(Path(f"again-{index}.png")) == read_record(Path(f"a-{index}.png"))


def test_from_a_picture_with_changes(draw: Command) -> None:
    draw("a red panda", "-s", 3, "-o", "a.png", "--steps", 2)
    assert draw("--from", "a.png", "-s", 4, "-N", 2, "-o", "b.png").code == 0
    assert read_record(Path("b-2.png"))["request"]["seed"] == 5
    assert draw("--from", "a.png", "an orange cat", "-o", "c.png").code == 0
    request = read_record(Path("c.png"))["request"]
    assert (request["prompt"], request["seed"], request["steps"]) == ("an orange cat", 3, 2)


def test_from_a_picture_of_another_model_says_so(draw: Command, command: Command, own_folder: Path) -> None:
    draw("a red panda", "-s", 3, "-o", "a.png")
    ran = command("--from", "a.png", "-o", "b.png")
    assert ran.code == 2 and "made by the model 'tiny'; give its folder with --model" in ran.err
    record = read_record(Path("a.png"))
    record["model"]["hash"] = "0" * 64
    Path("other.png").write_bytes(encode_png(Image.open("a.png"), record))
    ran = draw("--from", "other.png", "-o", "c.png")
    assert ran.code == 0 and "not the weights that made other.png" in ran.err


def test_from_a_picture_other_weights_of_the_same_name_are_refused(
    draw: Command, command: Command, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frolic.plan.find.ALIASES", {"tiny": lambda: tiny_folder})
    draw("a red panda", "-s", 3, "-o", "a.png")
    assert command("--from", "a.png", "--device", "cpu", "-o", "same.png").code == 0
    record = read_record(Path("a.png"))
    record["model"]["hash"] = "0" * 64
    Path("other.png").write_bytes(encode_png(Image.open("a.png"), record))
    ran = command("--from", "other.png", "--device", "cpu", "-o", "b.png")
    assert ran.code == 2 and not Path("b.png").exists()
    assert ran.err == (
        "other.png was made by other weights that are also called 'tiny'; give their folder with --model.\n"
    )
    assert draw("--from", "other.png", "-o", "b.png").code == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shift": 5.0}, "a.png was made with shift 5.0, not 3.0; it will differ."),
        ({"device": "cuda"}, "a.png was made with device cuda, not cpu; the pixels may differ slightly."),
        ({"torch": "1.0"}, "a.png was made with torch 1.0, not "),
    ],
)
def test_from_a_picture_made_otherwise_it_is_said(draw: Command, change: dict[str, Any], said: str) -> None:
    draw("a red panda", "-s", 3, "-o", "a.png")
    Path("a.png").write_bytes(encode_png(Image.open("a.png"), {**read_record(Path("a.png")), **change}))
    ran = draw("--from", "a.png", "-o", "b.png")
    assert ran.code == 0 and ran.err.startswith(said) and ran.err.count("\n") == 1


def test_the_hash_covers_every_file_that_decides_the_picture(own_folder: Path) -> None:
    from frolic.io.safetensors import fingerprint
    from frolic.plan import make_plan

    hashes = [fingerprint(make_plan(own_folder, device="cpu").files)]
    for name in (
        *("transformer/config.json", "vae/config.json", "text_encoder/config.json", "frolic.json"),
        *("scheduler/scheduler_config.json", "tokenizer/tokenizer.json"),
    ):
        (own_folder / name).write_text((own_folder / name).read_text() + " ")
        hashes.append(fingerprint(make_plan(own_folder, device="cpu").files))
    assert len(set(hashes)) == 7


@pytest.mark.parametrize(
    "change",
    [
        {"batch": [0, 1]},
        {"batch": [0, 1, 0]},
        {"batch": [0, 1, "12"]},
        {"batch": [1, 1, 12]},
        {"batch": [0, 10**9, 12]},
        {"batch": "x"},
        {"dtype": 3},
        {"model": {"name": "x", "hash": None}},
        {"request": {}},
        {"request": None},
        {"noise": "given"},
    ],
)
def test_from_a_record_that_makes_no_sense(draw: Command, change: dict[str, Any]) -> None:
    draw("a red panda", "-s", 3, "-o", "a.png")
    record = {**read_record(Path("a.png")), **change}
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("frolic", json.dumps(record))
    Image.new("RGB", (4, 4)).save("odd.png", pnginfo=info)
    ran = draw("--from", "odd.png", "-o", "b.png")
    assert ran.code == 3 and "odd.png" in ran.err and ran.err.count("\n") == 1 and not Path("b.png").exists()


def test_a_prompt_may_start_with_a_dash(command: Command, tiny_folder: Path) -> None:
    ran = command("-m", tiny_folder, "--device", "cpu", "-s", 1, "-o", "a.png", "--", "-cat", "--json")
    assert (ran.code, ran.out) == (0, "a.png  seed 1\n")
    assert read_record(Path("a.png"))["request"]["prompt"] == "-cat --json"
