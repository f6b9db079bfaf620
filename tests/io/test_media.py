from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from frolic.errors import FileError, RequestError
from frolic.io import media


def record(**request: Any) -> dict[str, Any]:
    base = {
        "prompt": "a red panda",
        "negative_prompt": "",
        "seed": 7,
        "steps": 20,
        "guidance_scale": 4.5,
        "sampler": "dpmpp_2m",
        "width": 128,
        "height": 96,
    }
    model = {"name": "starter", "version": "0.1", "family": "sana", "hash": "0123456789abcdef"}
    return {"schema": 1, "version": "0.1.0", "model": model, "request": {**base, **request}, "shift": 3.0}


@pytest.fixture
def picture() -> Image.Image:
    return Image.effect_noise((16, 12), 50).convert("RGB")


@pytest.mark.parametrize("prompt", ["a red panda", 'un été, çà: "et" là\nnew line', "一只熊猫 🐼", "", "x" * 20_000])
def test_the_record_comes_back(tmp_path: Path, picture: Image.Image, prompt: str) -> None:
    path = tmp_path / "a.png"
    media.save_png(picture, path, record(prompt=prompt))
    assert media.read_record(path) == record(prompt=prompt)
    assert media.read_texts(path)["parameters"].startswith(prompt)
    with Image.open(path) as opened:
        assert opened.tobytes() == picture.tobytes()
        assert json.loads(opened.text["frolic"]) == record(prompt=prompt)  # type: ignore[attr-defined]


def test_parameters_are_in_the_known_order() -> None:
    assert media.parameters(record(negative_prompt="blurry")) == (
        "a red panda\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Flow shift 3, CFG scale: 4.5, Seed: 7, Size: 128x96, "
        "Model hash: 0123456789, Model: starter, Version: frolic 0.1.0"
    )


def test_values_with_separators_are_quoted() -> None:
    odd = record()
    odd["model"]["name"] = "mine, with: signs"
    assert 'Model: "mine, with: signs", Version' in media.parameters(odd)


def test_a_picture_without_a_record_has_no_text(tmp_path: Path, picture: Image.Image) -> None:
    media.save_png(picture, tmp_path / "a.png")
    assert media.read_texts(tmp_path / "a.png") == {}
    with pytest.raises(FileError, match="does not say how it was made"):
        media.read_record(tmp_path / "a.png")


def test_a_record_above_the_cap_is_refused(tmp_path: Path, picture: Image.Image) -> None:
    with pytest.raises(RequestError, match="too long"):
        media.save_png(picture, tmp_path / "a.png", record(prompt="x" * media.MAX_TEXT))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 7, 20, 60, 300, -1, -12])
def test_a_truncated_picture_is_refused(tmp_path: Path, picture: Image.Image, keep: int) -> None:
    path = tmp_path / "a.png"
    media.save_png(picture, path, record())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileError):
        media.read_texts(path)


def test_a_damaged_record_is_refused(tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "a.png"
    media.save_png(picture, path, record())
    path.write_bytes(path.read_bytes().replace(b"starter", b"startes"))
    with pytest.raises(FileError, match="damaged"):
        media.read_record(path)


def test_a_record_of_another_version_is_refused(tmp_path: Path, picture: Image.Image) -> None:
    media.save_png(picture, tmp_path / "a.png", {**record(), "schema": 2})
    with pytest.raises(FileError, match="version 2"):
        media.read_record(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIHDR"])
def test_what_is_not_a_png_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(FileError):
        media.read_texts(tmp_path / "a.png")
