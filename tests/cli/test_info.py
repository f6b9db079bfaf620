from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Command = Callable[..., Any]


def test_info_of_a_picture(command: Command, tiny_folder: Path) -> None:
    command("a red panda", "-s", 3, "-o", "a.png", "-m", tiny_folder, "--device", "cpu")
    shown = command("info", "a.png")
    assert shown.code == 0 and "prompt: a red panda" in shown.out and "seed: 3" in shown.out
    record = json.loads(command("info", "a.png", "--json").out)
    assert record["request"]["seed"] == 3 and record["model"]["name"] == "tiny"


def test_info_of_another_programs_picture(command: Command) -> None:
    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20")
    Image.new("RGB", (4, 4)).save("a.png", pnginfo=info)
    assert json.loads(command("info", "a.png", "--json").out) == {"parameters": "a cat\nSteps: 20"}
    assert "parameters: " in command("info", "a.png").out


def test_a_picture_from_elsewhere_does_not_steer_the_terminal(command: Command) -> None:
    info = PngInfo()
    info.add_text("parameters", "\x1b[2Jgone")
    info.add_text("frolic", json.dumps({"model": {"\x1b[2Jgone": 1}}))
    Image.new("RGB", (4, 4)).save("a.png", pnginfo=info)
    assert "\x1b" not in command("info", "a.png").out
    ran = command("info", "\x1b[2Jgone")
    assert ran.code == 3 and "\x1b" not in ran.err


def test_info_of_a_picture_without_a_record(command: Command) -> None:
    Image.new("RGB", (4, 4)).save("b.png")
    assert command("info", "b.png").code == 3


def test_info_of_a_model(command: Command, tiny_folder: Path) -> None:
    facts = json.loads(command("info", tiny_folder, "--json").out)
    assert facts["family"] == "sana" and facts["size"] == "32x32" and len(facts["hash"]) == 64
    parts = facts["components"]
    assert set(parts) == {"transformer", "vae", "text_encoder"}
    assert all(part["parameters"] > 1000 and part["dtype"] == "float32" for part in parts.values())
    shown = command("info", tiny_folder)
    assert shown.code == 0 and "family: sana" in shown.out


def test_info_of_a_file_of_weights(command: Command, tiny_folder: Path) -> None:
    file = tiny_folder / "vae" / "diffusion_pytorch_model.safetensors"
    facts = json.loads(command("info", file, "--json").out)
    assert facts["bytes"] == 4 * facts["parameters"]


@pytest.mark.parametrize("target", ["gone.png", "gone.safetensors", "gone", "model.ckpt"])
def test_info_of_nothing(command: Command, target: str) -> None:
    Path("model.ckpt").write_bytes(b"\x80\x04.")
    ran = command("info", target)
    assert ran.code == 3 and ran.out == "" and ran.err.count("\n") == 1


def test_a_picture_that_says_nothing_is_not_taken_for_a_model(command: Command, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    ran = command("info", tmp_path / "photo.jpg")
    assert ran.code == 3 and "no file that says what made it" in ran.err and "--base" not in ran.err
