"""Every row of the list of bad input: exit code, one sentence that says what to do, no trace, nothing half written."""

from __future__ import annotations

import errno
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from frolic.io import files, safetensors

Command = Callable[..., Any]
TRANSFORMER = Path("transformer/diffusion_pytorch_model.safetensors")


def refused(ran: Any, code: int, *words: str) -> None:
    """The run failed as it should, said ``words``, and left no picture or scratch file."""
    assert ran.code == code, ran.err
    assert ran.out == "" and "Traceback" not in ran.err
    sentence, *more = ran.err.rstrip("\n").split("\n")
    assert all(line.startswith("  ") for line in more), "only an indented list may follow the sentence"
    assert sentence.endswith((".", ":", "?"))
    for word in words:
        assert word in ran.err, (word, ran.err)
    left = [path.name for path in Path.cwd().iterdir() if path.suffix in (".png", ".tmp")]
    assert left in ([], ["mine.png"])


@pytest.fixture
def draw(command: Command, tiny_folder: Path) -> Command:
    return lambda *arguments: command("a red panda", "-s", 1, "-m", tiny_folder, "--device", "cpu", *arguments)


def test_unknown_model(command: Command) -> None:
    refused(command("a red panda", "-m", "startr"), 3, "'startr'", "did you mean 'starter'")
    refused(command("a red panda", "-m", "somebody/something"), 5, "offline", "frolic models pull somebody/something")


def test_missing_file(command: Command) -> None:
    refused(command("--from", "gone.png"), 3, "no file gone.png")
    refused(command("--prompt-file", "gone.txt"), 3, "no file gone.txt")
    refused(command("info", "gone.png"), 3, "no file gone.png")


def test_size_not_a_multiple_of_the_stride_is_rounded_and_said(draw: Command) -> None:
    ran = draw("--size", "30x33", "-o", "a.png")
    assert ran.code == 0 and "Drawn at 32x36 and brought to 30x33." in ran.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--steps", "0"], "steps is 0, it must be 1 to 1000"),
        (["--steps", "100000"], "1 to 1000"),
        (["--cfg", "nan"], "guidance_scale is nan"),
        (["--guidance-scale", "inf"], "guidance_scale is inf"),
        (["-s", "-1"], "seed is -1, it must be 0 to 9223372036854775807"),
        (["-s", str(2**70)], "seed is"),
        (["-W", "0"], "width is 0"),
        (["-H", "100000"], "height is 100000"),
        (["--size", "big"], "WIDTHxHEIGHT"),
        (["--size", "64x64", "-W", "64"], "leave out"),
        (["-N", "0"], "num_images is 0"),
        (["--sampler", "magic"], "unipc or scm"),
        (["--dtype", "int3"], "float32"),
        (["--device", "banana"], "not a device"),
        (["--device", "cuda:99"], "--device cpu"),
    ],
)
def test_requests_that_cannot_be_carried_out(draw: Command, arguments: list[str], word: str) -> None:
    refused(draw(*arguments), 2, word)


def test_a_prompt_of_300_kilobytes(command: Command, draw: Command) -> None:
    refused(command("x" * 300_000), 2, "300,000 characters", "20,000")
    Path("long.txt").write_text("x" * 300_000)
    refused(command("--prompt-file", "long.txt"), 2, "300,000 characters")
    Path("endless.txt").write_bytes(b"x" * 5_000_000)
    refused(command("--prompt-file", "endless.txt"), 2, "too long")
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00")
    refused(command("--prompt-file", "bytes.txt"), 2, "UTF-8")
    Path("empty.txt").write_bytes(b"\n")
    refused(command("--prompt-file", "empty.txt"), 2, "no prompt")
    refused(command("generate"), 2, "no prompt")


def test_an_existing_output_is_kept_and_nothing_is_computed(draw: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.png").write_bytes(b"mine")
    monkeypatch.setattr("frolic.cli.generate._load", lambda *_, **__: pytest.fail("the model was loaded"))
    refused(draw("-o", "mine.png"), 3, "already exists", "--force")
    assert Path("mine.png").read_bytes() == b"mine"


def test_an_unwritable_output(draw: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_bytes(b"")
    refused(draw("-o", "gone/a.png"), 3, "no folder gone")
    refused(draw("-o", "file/a.png"), 3)
    refused(draw("-o", "a.jpg"), 2, ".png")
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    refused(draw("-o", "a.png"), 3, "may write to")
    refused(draw(), 3, "may write to")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(draw: Command) -> None:
    Path("closed").mkdir(mode=0o555)
    refused(draw("-o", "closed/a.png"), 3, "may write to")


def test_a_truncated_safetensors(command: Command, own_folder: Path) -> None:
    path = own_folder / TRANSFORMER
    path.write_bytes(path.read_bytes()[:-100])
    refused(command("a red panda", "-m", own_folder), 3, "cut short", "get the file again")
    path.write_bytes(b"")
    refused(command("a red panda", "-m", own_folder), 3, "not a safetensors file")


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("opened"),))  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["model.ckpt", "model.pth", "model.pt", "model.bin", "model.pkl"])
def test_a_pickle_offered_as_a_model(command: Command, name: str) -> None:
    Path(name).write_bytes(pickle.dumps(Bomb()))
    refused(command("a red panda", "-m", name), 3, "pickle", ".safetensors")
    assert not Path("opened").exists()


def test_a_pickle_among_a_models_files(command: Command, own_folder: Path) -> None:
    (own_folder / TRANSFORMER).write_bytes(pickle.dumps(Bomb()))
    refused(command("a red panda", "-m", own_folder), 3, "pickle")
    (own_folder / TRANSFORMER).rename(own_folder / "transformer" / "diffusion_pytorch_model.bin")
    refused(command("a red panda", "-m", own_folder), 3, "pickle")
    assert not Path("opened").exists()


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = safetensors.load(folder / TRANSFORMER)
    change(tensors)
    safetensors.save(tensors, folder / TRANSFORMER, force=True)


def test_missing_foreign_misshapen_and_nan_weights(command: Command, own_folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["proj_out.bias"]
        tensors["foreign.weight"] = torch.zeros(3)
        tensors["patch_embed.proj.bias"] = torch.zeros(7)

    spoil(own_folder, change)
    refused(command("a red panda", "-m", own_folder), 3, "proj_out.bias", "foreign.weight", "is 7, needs 32")


def test_nan_weights(command: Command, own_folder: Path) -> None:
    spoil(own_folder, lambda tensors: tensors["proj_out.bias"].fill_(torch.nan))
    refused(command("a red panda", "-m", own_folder), 3, "not finite", "proj_out.bias")


def test_a_foreign_folder(command: Command, tmp_path: Path, own_folder: Path) -> None:
    refused(command("a red panda", "-m", tmp_path), 3, "model_index.json")
    (own_folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    refused(command("a red panda", "-m", own_folder), 3, "FluxPipeline")
    (own_folder / "model_index.json").write_text("{")
    refused(command("a red panda", "-m", own_folder), 3, "not valid JSON")


def test_a_full_disk(draw: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    refused(draw("-o", "a.png"), 4, "no room on the disk for a.png")
    refused(draw(), 4, "no room")


def test_a_file_size_limit_keeps_the_picture_that_was_there(draw: Command) -> None:
    Path("mine.png").write_bytes(b"mine")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        ran = draw("-o", "mine.png", "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    refused(ran, 4, "no room")
    assert Path("mine.png").read_bytes() == b"mine"
