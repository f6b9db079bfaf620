"""Memory runs out while decoding: the latents are kept, and ``--resume-decode`` makes the picture of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from frolic.io import safetensors
from frolic.io.media import read_record, read_texts
from frolic.models.dcae import DCAE
from frolic.pipeline import decode
from given import half_mask, picture

Command = Callable[..., Any]
KEPT = "frolic-3.latents.safetensors"


def pixels(path: Path | str) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


@pytest.fixture
def draw(command: Command, tiny_folder: Path) -> Command:
    return lambda *arguments: command(*arguments, "-m", tiny_folder, "--device", "cpu")


@pytest.fixture
def starve(draw: Command) -> Command:
    """Draw without the memory to decode."""

    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def run(*arguments: object) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DCAE, "decode", full)
            patch.setattr(decode, "decode_tiled", full)
            return draw(*arguments)

    return run


def test_the_same_picture_comes_later(draw: Command, starve: Command) -> None:
    given = ("a red panda", "-s", 3, "--steps", 2, "--size", "30x34")
    ran = starve(*given, "-o", "a.png")
    assert ran.code == 4 and ran.out == "" and ran.err.count("\n") == 1, ran.err
    assert KEPT in ran.err and "--resume-decode" in ran.err and Path(KEPT).is_file() and not Path("a.png").exists()
    ran = draw("--resume-decode", KEPT, "-o", "late.png")
    assert (ran.code, ran.out, ran.err) == (0, "late.png  seed 3\n", "")
    assert draw(*given, "-o", "undisturbed.png").code == 0
    assert pixels("late.png") == pixels("undisturbed.png")
    assert read_record(Path("late.png")) == read_record(Path("undisturbed.png"))
    assert draw("--from", "late.png", "-o", "again.png").code == 0
    assert pixels("again.png") == pixels("late.png")


def test_latents_are_kept_beside_where_the_pictures_would_be(starve: Command) -> None:
    Path("pictures").mkdir()
    assert starve("a cat", "-s", 3, "-o", "pictures").code == 4
    assert [path.name for path in Path("pictures").iterdir()] == [KEPT]
    assert starve("a cat", "-s", 3, "-o", "pictures/cat.png").code == 4
    assert sorted(path.name for path in Path("pictures").iterdir()) == ["frolic-3-2.latents.safetensors", KEPT]


def test_several_pictures_of_several_prompts(draw: Command, starve: Command) -> None:
    Path("prompts.txt").write_text("a red panda\nan orange cat\n")
    given = ("--prompt-file", "prompts.txt", "-N", 2, "-s", 3, "--steps", 2)
    assert starve(*given, "-o", "a.png").code == 4
    assert draw(*given, "-o", "a.png").code == 0
    ran = draw("--resume-decode", KEPT, "-o", "b.png", "--json")
    images = [event for line in ran.out.splitlines() if (event := json.loads(line))["event"] == "image"]
    assert [event["path"] for event in images] == [f"b-{n}.png" for n in (1, 2, 3, 4)]
    assert [event["seed"] for event in images] == [3, 4, 5, 6] and images[3]["prompt"] == "an orange cat"
    for number in (1, 2, 3, 4):
        assert pixels(f"a-{number}.png") == pixels(f"b-{number}.png")
        assert read_record(Path(f"a-{number}.png")) == read_record(Path(f"b-{number}.png"))
    ran = draw("--resume-decode", KEPT)
    assert [line.split()[0] for line in ran.out.splitlines()] == [
        *("frolic-a-red-panda-3.png", "frolic-a-red-panda-4.png"),
        *("frolic-an-orange-cat-5.png", "frolic-an-orange-cat-6.png"),
    ]


def test_what_stays_of_an_image_stays(draw: Command, starve: Command) -> None:
    picture().save("panda.png")
    half_mask().save("mask.png")
    given = ("two dogs", "-s", 3, "--steps", 2, "--image", "panda.png", "--mask", "mask.png")
    assert starve(*given, "-o", "a.png").code == 4
    Path("panda.png").rename("elsewhere.png")
    assert draw("--resume-decode", KEPT, "-o", "late.png").code == 0
    Path("elsewhere.png").rename("panda.png")
    assert draw(*given, "-o", "undisturbed.png").code == 0
    assert pixels("late.png") == pixels("undisturbed.png")
    assert read_record(Path("late.png")) == read_record(Path("undisturbed.png"))


def test_the_rules_for_files_hold(draw: Command, starve: Command) -> None:
    assert starve("a cat", "-s", 3).code == 4
    Path("mine.png").write_bytes(b"mine")
    ran = draw("--resume-decode", KEPT, "-o", "mine.png")
    assert ran.code == 3 and "already exists" in ran.err and Path("mine.png").read_bytes() == b"mine"
    assert draw("--resume-decode", KEPT, "-o", "a.jpg").code == 2
    assert draw("--resume-decode", KEPT, "-o", "a.png", "--no-metadata").code == 0
    assert read_texts(Path("a.png")) == {}
    assert draw("--resume-decode", KEPT, "-o", "b.png", "-q").out == ""


def test_a_model_in_a_folder_has_to_be_given_again(
    command: Command, starve: Command, draw: Command, own_folder: Path
) -> None:
    assert starve("a cat", "-s", 3, "--steps", 1).code == 4
    ran = command("--resume-decode", KEPT)
    assert ran.code == 2 and f"{KEPT} was made by the model 'tiny'; give its folder with --model" in ran.err
    path = own_folder / "frolic.json"
    path.write_text(path.read_text() + " ")
    ran = command("--resume-decode", KEPT, "-m", own_folder, "--device", "cpu", "-o", "a.png")
    assert ran.code == 0 and ran.err == f"These are not the weights that made {KEPT}; the picture may differ.\n"


def test_memory_that_is_still_short_keeps_the_file_and_says_so(starve: Command) -> None:
    assert starve("a cat", "-s", 3, "--steps", 1).code == 4
    before = Path(KEPT).read_bytes()
    ran = starve("--resume-decode", KEPT, "-o", "a.png")
    assert ran.code == 4 and ran.err.count("\n") == 1 and "Memory ran out" in ran.err
    assert Path(KEPT).read_bytes() == before and not Path("a.png").exists()
    assert [path.name for path in Path().iterdir()] == [KEPT]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("a prompt",), "the prompt"),
        (("--from", "a.png"), "--from"),
        (("--prompt-file", "prompts.txt"), "--prompt-file"),
        (("--steps", "5", "--lora", "vivid", "--size", "32x32", "--dry-run"), "--steps, --size, --lora, --dry-run"),
        (("-s", "5", "--image", "a.png", "--preview-every", "2"), "--seed, --preview-every, --image"),
    ],
)
def test_it_draws_nothing_else(draw: Command, more: tuple[str, ...], said: str) -> None:
    ran = draw("--resume-decode", KEPT, *more)
    assert ran.code == 2 and ran.err.endswith("drawn before; leave out " + said + ".\n")


def rewritten(change: Callable[[dict[str, Tensor], list[Any]], Any]) -> None:
    """Change what the kept file holds."""
    tensors = safetensors.load(Path(KEPT))
    records = json.loads(safetensors.read_header(Path(KEPT)).metadata["frolic"])
    changed = change(tensors, records)
    safetensors.save(tensors, Path(KEPT), metadata={"frolic": json.dumps(changed or records)}, force=True)


SPOILED: dict[str, Callable[[dict[str, Tensor], list[Any]], Any]] = {
    "no latents": lambda tensors, _: tensors.update(other=tensors.pop("latents")),
    "too few records": lambda _, records: records.append(records[0]),
    "flat latents": lambda tensors, _: tensors.update(latents=torch.ones(1, 4, 8)),
    "not finite": lambda tensors, _: tensors.update(latents=tensors["latents"] * torch.nan),
    "no request": lambda _, records: records[0].pop("request"),
    "no prompt": lambda _, records: records[0]["request"].pop("prompt"),
    "no dtype": lambda _, records: records[0].pop("dtype"),
    "no model": lambda _, records: records[0].pop("model"),
    "a model without a name": lambda _, records: records[0].update(model={"hash": "0"}),
    "a model of numbers": lambda _, records: records[0].update(model={"name": 3, "hash": 4}),
    "no width": lambda _, records: records[0]["request"].update(width=None),
    "a huge width": lambda _, records: records[0]["request"].update(width=10**9),
    "a seed of text": lambda _, records: records[0]["request"].update(seed="three"),
    "prompts": lambda _, records: records[0]["request"].update(prompt=["a", "b"]),
    "records by name": lambda _, records: {"a": records[0]},
    "numbers": lambda *_: [3],
    "only a mask": lambda tensors, _: tensors.update(mask=torch.ones(1, 3, 32, 32)),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_file_is_refused(draw: Command, starve: Command, name: str) -> None:
    assert starve("a cat", "-s", 3, "--steps", 1).code == 4
    rewritten(SPOILED[name])
    ran = draw("--resume-decode", KEPT, "-o", "a.png")
    assert ran.code == 3 and ran.out == "" and KEPT in ran.err and not Path("a.png").exists(), ran.err
    assert "Traceback" not in ran.err and ran.err.count("\n") <= 2


def test_latents_of_another_model_are_refused(draw: Command, starve: Command) -> None:
    assert starve("a cat", "-s", 3, "--steps", 1).code == 4
    rewritten(lambda tensors, _: tensors.update(latents=torch.ones(1, 32, 8, 8)))
    ran = draw("--resume-decode", KEPT, "-o", "a.png")
    assert ran.code == 2 and "have 32 channels, this model's have 4" in ran.err
    shapes = {"image": torch.zeros(1, 3, 16, 16), "mask": torch.zeros(1, 3, 16, 16)}
    rewritten(lambda tensors, _: tensors.update(latents=torch.ones(1, 4, 8, 8), **shapes))
    ran = draw("--resume-decode", KEPT, "-o", "a.png")
    assert ran.code == 2 and "not of the size" in ran.err


def test_other_files_are_refused(draw: Command, starve: Command, tiny_folder: Path) -> None:
    assert starve("a cat", "-s", 3, "--steps", 1).code == 4
    whole = Path(KEPT).read_bytes()
    Path("short.safetensors").write_bytes(whole[:-100])
    Path("text.safetensors").write_text("not latents")
    Path("pickle.safetensors").write_bytes(b"\x80\x04\x95 a pickle")
    picture().save("picture.png")
    weights = tiny_folder / "vae/diffusion_pytorch_model.safetensors"
    cases = {
        "short.safetensors": "cut short",
        "text.safetensors": "cannot be used",
        "pickle.safetensors": "pickle",
        "picture.png": "cannot be used",
        "gone.safetensors": "no file",
        ".": "is a folder",
        str(weights): "does not hold latents that frolic kept",
    }
    for name, said in cases.items():
        ran = draw("--resume-decode", name, "-o", "a.png")
        assert ran.code == 3 and said in ran.err and ran.err.count("\n") == 1, (name, ran.err)
