"""Every option of ``frolic generate`` acts, is recorded, is drawn again from the record, and is refused when wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from frolic.cli.options import parser
from frolic.io.media import encode_png, read_record
from given import half_mask, picture, write_controlnet
from tiny import write_tiny_folder

Command = Callable[..., Any]


def pixels(path: Path | str) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_controlnet(tmp_path_factory.mktemp("net") / "net")


@pytest.fixture
def model(tiny_folder: Path) -> tuple[object, ...]:
    return ("-m", tiny_folder, "--device", "cpu")


@pytest.fixture
def draw(command: Command, model: tuple[object, ...]) -> Command:
    """Draw with the tiny model, in a folder with some pictures."""
    picture().save("panda.png")
    picture(seed=9).save("bird.png")
    half_mask().save("mask.png")
    return lambda *arguments: command(*arguments, *model)


PROMPT = ("a red panda", "-s", 3, "--steps", 3)
APG = ("--apg", "--cfg", 6)
PAG = ("--pag-scale", 2)
FROM_IMAGE = ("--image", "panda.png")
OPTIONS: dict[str, tuple[tuple[object, ...], tuple[object, ...], dict[str, Any]]] = {
    # what is drawn without it, the option, and what the record says more
    "sampler": ((), ("--sampler", "dpmpp_3m_heun"), {"sampler": "dpmpp_3m_heun"}),
    "schedule": (("--sampler", "euler"), ("--schedule", "native"), {"schedule": "native"}),
    "guidance interval": ((), ("--guidance-interval", 0.2, 0.8), {"guidance_interval": [0.2, 0.8]}),
    "apg": (("--cfg", 6), ("--apg",), {"apg": True}),
    "apg eta": (APG, ("--apg-eta", 0.7), {"apg_eta": 0.7}),
    "apg threshold": (APG, ("--apg-threshold", 1.5), {"apg_threshold": 1.5}),
    "apg momentum": (APG, ("--apg-momentum", -0.75), {"apg_momentum": -0.75}),
    "pag": ((), PAG, {"pag_scale": 2.0, "pag_layers": [0]}),
    "pag layers": (PAG, ("--pag-layers", "1"), {"pag_layers": [1]}),
    "both layers": (PAG, ("--pag-layers", "0,1"), {"pag_layers": [0, 1]}),
    "instruction": ((), ("--instruction", "two dogs "), {"instruction": "two dogs "}),
    "image": ((), FROM_IMAGE, {"strength": 0.6}),
    "another image": (FROM_IMAGE, ("--image", "bird.png"), {}),
    "strength": (FROM_IMAGE, ("--strength", 0.3), {"strength": 0.3}),
    "mask": ((*FROM_IMAGE, "--strength", 1), ("--mask", "mask.png"), {}),
    "control": ((), ("--control", "bird.png"), {}),
    "control scale": (("--control", "bird.png"), ("--control-scale", 0.4), {"control_scale": 0.4}),
    "control from": (("--control", "bird.png"), ("--control-from", "edges"), {}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_acts_is_recorded_and_is_drawn_again(draw: Command, net: Path, name: str) -> None:
    without, option, said = OPTIONS[name]
    given = ("--controlnet", net) if "control" in name else ()
    assert draw(*PROMPT, *without, *given, "-o", "without.png").code == 0
    ran = draw(*PROMPT, *without, *option, *given, "-o", "with.png")
    assert (ran.code, ran.err) == (0, "")
    assert pixels("without.png") != pixels("with.png")
    record = read_record(Path("with.png"))
    assert {**record["request"], **said} == record["request"]
    inputs = {"--image", "--mask", "--control", "--control-from"}
    everything = (*without, *option)
    again = [word for at, word in enumerate(everything) if word in inputs or (at and everything[at - 1] in inputs)]
    ran = draw("--from", "with.png", *again, *given, "-o", "again.png")
    assert (ran.code, ran.err) == (0, "")
    assert pixels("again.png") == pixels("with.png") and read_record(Path("again.png")) == record


def test_everything_together_is_drawn_again(draw: Command, net: Path) -> None:
    Path("prompts.txt").write_text("a red panda\nan orange cat\n")
    pictures = ("--image", "panda.png", "--mask", "mask.png", "--control", "bird.png", "--controlnet", net)
    options = ("--strength", 0.7, "--pag-scale", 1, "--pag-layers", "1", "--guidance-interval", 0.1, 0.9)
    more = ("--instruction", "draw ", "--sampler", "dpmpp_1s", "--steps", 4, "--control-scale", 0.5, "--size", "40x24")
    ran = draw("--prompt-file", "prompts.txt", "-N", 2, "-s", 5, *pictures, *options, *more, "-o", "a.png")
    assert ran.code == 0 and ran.out.count("\n") == 4
    for number in (1, 4):
        assert draw("--from", f"a-{number}.png", *pictures, "-o", f"b-{number}.png").code == 0
        assert pixels(f"a-{number}.png") == pixels(f"b-{number}.png")
        assert read_record(Path(f"a-{number}.png")) == read_record(Path(f"b-{number}.png"))


def test_a_picture_drawn_natively_is_drawn_again_natively(draw: Command) -> None:
    assert draw("A Red PANDA", "-n", "blue", "-s", 3, "--compat", "native", "-o", "native.png").code == 0
    assert draw("A Red PANDA", "-n", "blue", "-s", 3, "-o", "other.png").code == 0
    assert pixels("native.png") != pixels("other.png")
    ran = draw("--from", "native.png", "-o", "again.png")
    assert (ran.code, ran.err) == (0, "") and pixels("again.png") == pixels("native.png")
    assert read_record(Path("again.png")) == read_record(Path("native.png"))
    ran = draw("--from", "native.png", "--compat", "diffusers", "-o", "changed.png")
    assert ran.code == 0 and "made with compat native, not diffusers; it will differ" in ran.err


@pytest.mark.parametrize(
    ("made", "again", "said"),
    [
        (("--image", "panda.png"), (), "a.png was made with an --image"),
        (("--image", "panda.png"), ("--image", "bird.png"), "a.png was made with another --image"),
        (("--image", "panda.png", "--mask", "mask.png"), ("--image", "panda.png"), "a.png was made with an --mask"),
        (("--control", "bird.png"), ("--control", "panda.png"), "another --control"),
        (("--control", "bird.png", "--control-from", "edges"), ("--control", "bird.png"), "another --control"),
        ((), ("--control", "bird.png"), "a.png was made without --control; leave it out"),
    ],
)
def test_from_a_picture_other_pictures_are_refused(
    draw: Command, net: Path, made: tuple[str, ...], again: tuple[str, ...], said: str
) -> None:
    assert draw(*PROMPT, *made, "--controlnet", net, "-o", "a.png").code == 0
    ran = draw("--from", "a.png", *again, "--controlnet", net, "-o", "b.png")
    assert ran.code == 2 and said in ran.err and ran.err.count("\n") == 1 and not Path("b.png").exists()
    new = draw("--from", "a.png", *again, "--controlnet", net, "-s", 4, "-o", "b.png")
    lost = {name for name in ("--image", "--mask", "--control") if name in made and name not in again}
    assert new.code == (2 if lost else 0), "something new, of the same pictures or of others"
    assert not lost or f"was made with {lost.pop()}, which it does not hold" in new.err


@pytest.mark.parametrize(
    "change", [{"inputs": "x"}, {"inputs": {"image": 3}}, {"inputs": ["image"]}, {"compat": 3}, {"inputs": None}]
)
def test_from_a_record_whose_pictures_make_no_sense(draw: Command, change: dict[str, Any]) -> None:
    assert draw(*PROMPT, "-o", "a.png").code == 0
    Path("odd.png").write_bytes(encode_png(Image.open("a.png"), {**read_record(Path("a.png")), **change}))
    ran = draw("--from", "odd.png", "-o", "b.png")
    assert ran.code == 3 and "odd.png is damaged" in ran.err and ran.err.count("\n") == 1


def test_from_a_picture_with_changes_keeps_the_strength_it_had(draw: Command) -> None:
    assert draw(*PROMPT, "--image", "panda.png", "--strength", 0.4, "-o", "a.png").code == 0
    assert draw("--from", "a.png", "--image", "panda.png", "-s", 5, "-o", "b.png").code == 0
    assert read_record(Path("b.png"))["request"]["strength"] == 0.4
    assert draw(*PROMPT, "-o", "plain.png").code == 0
    assert draw("--from", "plain.png", "--image", "panda.png", "-o", "c.png").code == 0, "an image is a change"
    assert read_record(Path("c.png"))["request"]["strength"] == 0.6


def test_a_control_picture_may_be_a_photograph_whose_edges_lead(draw: Command, net: Path) -> None:
    assert (
        draw(*PROMPT, "--control", "bird.png", "--control-from", "edges", "--controlnet", net, "-o", "a.png").code == 0
    )
    hashes = read_record(Path("a.png"))["inputs"]
    assert draw(*PROMPT, "--control", "bird.png", "--controlnet", net, "-o", "b.png").code == 0
    assert hashes != read_record(Path("b.png"))["inputs"]


def test_the_size_of_a_picture_is_that_of_the_image(draw: Command) -> None:
    picture(48, 24).save("wide.png")
    assert draw(*PROMPT, "--image", "wide.png", "-o", "a.png").code == 0
    assert draw(*PROMPT, "--image", "wide.png", "--size", "24x40", "-o", "b.png").code == 0
    assert [Image.open(name).size for name in ("a.png", "b.png")] == [(48, 24), (24, 40)]


@pytest.mark.parametrize(
    ("aspect", "size"), [("2:1", (44, 24)), ("1:1", (32, 32)), ("9x16", (24, 44)), ("3/2", (40, 28))]
)
def test_an_aspect_is_a_size_with_as_many_pixels(draw: Command, aspect: str, size: tuple[int, int]) -> None:
    assert draw(*PROMPT, "--aspect", aspect, "-o", "a.png").code == 0
    with Image.open("a.png") as image:
        assert image.size == size
    request = read_record(Path("a.png"))["request"]
    assert (request["width"], request["height"]) == size and "aspect" not in request
    assert draw("--from", "a.png", "-o", "b.png").code == 0 and pixels("a.png") == pixels("b.png")
    assert draw("--from", "a.png", "--aspect", "1:1", "-o", "c.png").code == 0
    assert draw("--from", "a.png", "-W", 36, "-o", "d.png").code == 0
    wider = read_record(Path("d.png"))["request"]
    assert (wider["width"], wider["height"]) == (36, size[1]), "the other side stays"
    with Image.open("c.png") as image:
        assert image.size == (32, 32)


@pytest.fixture
def binned(tmp_path: Path) -> Path:
    """A model that was trained with the sizes around 512 pixels."""
    folder = write_tiny_folder(tmp_path / "binned")
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": 16}))
    return folder


def test_binning_draws_at_a_size_of_the_table(command: Command, binned: Path) -> None:
    given = ("a red panda", "-s", 3, "--steps", 1, "--cfg", 1, "--size", "40x24", "-m", binned, "--device", "cpu")
    ran = command(*given, "-o", "a.png")
    assert ran.code == 0 and "Drawn at 640x384 and brought to 40x24." in ran.err
    assert read_record(Path("a.png"))["request"]["binning"] is True
    assert command(*given, "--no-binning", "-o", "b.png").err == ""
    assert "binning" not in read_record(Path("b.png"))["request"]
    assert Image.open("a.png").size == Image.open("b.png").size == (40, 24) and pixels("a.png") != pixels("b.png")
    for name in ("a", "b"):
        assert command("--from", f"{name}.png", "-m", binned, "--device", "cpu", "-o", f"{name}2.png").code == 0
        assert pixels(f"{name}.png") == pixels(f"{name}2.png")


def test_prompts_from_a_file_each_several_times(draw: Command) -> None:
    Path("prompts.txt").write_text("a red panda\nan orange cat\n")
    ran = draw("--prompt-file", "prompts.txt", "-N", 2, "-s", 7, "--image", "panda.png", "-o", "a.png", "--json")
    events = [json.loads(line) for line in ran.out.splitlines()]
    images = [(e["path"], e["seed"], e["prompt"]) for e in events if e["event"] == "image"]
    assert images == [
        ("a-1.png", 7, "a red panda"),
        ("a-2.png", 8, "a red panda"),
        ("a-3.png", 9, "an orange cat"),
        ("a-4.png", 10, "an orange cat"),
    ]
    assert len({pixels(path) for path, *_ in images}) == 4
    assert {read_record(Path(path))["inputs"]["image"] for path, *_ in images}.__len__() == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--steps", "many"), "--steps: invalid int value: 'many'"),
        (("--cfg", "strong"), "invalid float value: 'strong'"),
        (("--schedule", "nativ"), "schedule is 'nativ', it must be diffusers, native or wan, did you mean 'native'?"),
        (("--guidance-interval", "0.8", "0.2"), "the lower one first"),
        (("--guidance-interval", "0.8"), "expected 2 arguments"),
        (("--guidance-interval", "nan", "1"), "two noise levels"),
        (("--apg", "--apg-eta", "2"), "apg_eta is 2.0, it must be 0 to 1"),
        (("--apg", "--apg-threshold", "-1"), "apg_threshold is -1.0"),
        (("--apg", "--apg-momentum", "-3"), "apg_momentum is -3.0, it must be -1 to 1"),
        (("--apg", "--pag-scale", "1"), "exclude each other"),
        (("--apg-eta", "0.5"), "--apg-eta means nothing without --apg"),
        (("--pag-scale", "-1"), "pag_scale is -1.0"),
        (("--pag-scale", "1", "--pag-layers", "one"), "'one' is not block numbers, as 8,9"),
        (("--pag-scale", "1", "--pag-layers", "-1"), "pag_layers"),
        (("--pag-scale", "1", "--pag-layers", "0,7"), "there is no block 7 to perturb; this model has 0 to 1"),
        (("--pag-layers", "1"), "--pag-layers means nothing without --pag-scale"),
        (("--binning",), "no table of sizes"),
        (("--aspect", "wide"), "aspect is 'wide', it must be two numbers as 16:9"),
        (("--aspect", "9:1"), "each at most 4 times the other"),
        (("--aspect", "1:1", "--size", "32x32"), "leave out height and width"),
        (("--strength", "0", "--image", "panda.png"), "strength is 0.0, it must be above 0 and at most 1"),
        (("--strength", "1.5", "--image", "panda.png"), "strength is 1.5"),
        (("--strength", "0.5"), "--strength means nothing without --image"),
        (("--mask", "mask.png"), "--mask means nothing without --image"),
        (("--control-scale", "-1", "--control", "bird.png"), "control_scale is -1.0"),
        (("--control-scale", "1"), "--control-scale means nothing without --control"),
        (("--control-from", "edges"), "--control-from means nothing without --control"),
        (("--control", "bird.png"), "has no ControlNet; give one with --controlnet MODEL"),
        (("--variant", "fp8"), "no variant 'fp8'"),
        (("--compat", "nativ"), "did you mean 'native'"),
        (("--memory", "little"), "memory is 'little'; give auto or full or low"),
        (("--tiling", "maybe"), "tiling is 'maybe'"),
        (("--base", "starter"), "is a whole model; leave out --base"),
        (("--stepz", "3"), "nrecognized arguments: --stepz"),
        (("--step", "3"), "nrecognized arguments: --step"),
        (("--seed",), "expected one argument"),
        (("--resume-decode", "x.safetensors"), "leave out the prompt"),
    ],
)
def test_a_wrong_value_is_one_clear_sentence(draw: Command, arguments: tuple[str, ...], said: str) -> None:
    ran = draw("a red panda", "-s", 1, "-o", "a.png", *arguments)
    assert ran.code == 2 and ran.out == "" and said in ran.err and not Path("a.png").exists()
    assert ran.err.count("\n") == 1 and "Traceback" not in ran.err and "_layers value" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--image", "gone.png"), "no file gone.png"),
        (("--image", "pandas.png"), "did you mean 'panda.png'?"),
        (("--image", "notes.txt"), "cannot be read as a picture"),
        (("--image", "panda.png", "--mask", "gone.png"), "no file gone.png"),
        (("--control", "gone.png"), "no file gone.png"),
        (("--controlnet", "gone"), "no model 'gone'"),
        (("--vae", "gone"), "no model 'gone'"),
        (("--vae", "vae.ckpt"), "vae.ckpt is a pickle"),
    ],
)
def test_a_missing_or_foreign_file_is_one_clear_sentence(draw: Command, arguments: tuple[str, ...], said: str) -> None:
    Path("notes.txt").write_text("not a picture")
    Path("vae.ckpt").write_bytes(b"PK\x03\x04")
    ran = draw("a red panda", "-s", 1, "-o", "a.png", *arguments)
    assert ran.code == 3 and ran.out == "" and said in ran.err and ran.err.count("\n") == 1
    assert not Path("a.png").exists()


def test_missing_pictures_are_noticed_before_a_model_is_loaded(draw: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frolic.cli.generate._load", lambda *_, **__: pytest.fail("the model was loaded"))
    for option in ("--image", "--control"):
        assert draw("a red panda", option, "gone.png").code == 3


def test_how_a_model_is_loaded_does_not_change_the_picture(draw: Command) -> None:
    assert draw(*PROMPT, "-o", "plain.png").code == 0
    for number, options in enumerate((("--memory", "low"), ("--memory", "full"), ("--tiling", "off"))):
        assert draw(*PROMPT, *options, "-o", f"{number}.png").code == 0
        assert pixels(f"{number}.png") == pixels("plain.png")
        assert read_record(Path(f"{number}.png")) == read_record(Path("plain.png"))


def test_a_dry_run_draws_nothing(draw: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frolic.cli.generate._load", lambda *_, **__: pytest.fail("the model was loaded"))
    ran = draw(*PROMPT, "--size", "30x32", "-N", 2, "--memory", "low", "--dry-run")
    assert ran.code == 0 and "2 at 30x32 (drawn at 32x32), 3 steps" in ran.out
    assert [path.name for path in Path().glob("frolic-*")] == []
    event = json.loads(draw(*PROMPT, "--dry-run", "--json").out.splitlines()[0])
    assert event["event"] == "plan" and {part["name"] for part in event["parts"]} == {
        "transformer",
        "vae",
        "text_encoder",
    }
    assert event["mode"] == "full" and event["pictures"] == 1 and event["peak"] > 0
    picture(48, 24).save("wide.png")
    assert "1 at 48x24" in draw(*PROMPT, "--image", "wide.png", "--dry-run").out
    ran = draw(*PROMPT, "--binning", "--dry-run")
    assert ran.code == 2 and "no table of sizes" in ran.err


def test_help_lists_every_option(command: Command) -> None:
    ran = command("generate", "--help")
    assert ran.code == 0 and ran.err == ""
    actions = [action for action in parser()._actions if action.option_strings]
    for action in actions:
        assert action.help and all(option in ran.out for option in action.option_strings), action
    assert len(actions) > 40


def test_a_strangers_picture_starts_no_download(draw: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert draw(*PROMPT, "-o", "a.png").code == 0
    record = read_record(Path("a.png"))
    record["model"]["name"] = "somebody/huge"
    Path("odd.png").write_bytes(encode_png(Image.open("a.png"), record))
    monkeypatch.setattr("frolic.io.hub.pull", lambda *_, **__: pytest.fail("it fetched what a picture named"))
    monkeypatch.setattr("frolic.io.hub.offline", lambda: False)
    from frolic.cli.main import main

    with pytest.raises(SystemExit) as left:
        main(["--from", "odd.png", "-o", "b.png"])
    assert left.value.code == 3 and not Path("b.png").exists()
