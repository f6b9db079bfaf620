"""Training a ControlNet, end to end at a tiny size: pictures in, a folder that leads out."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import frolic
from frolic.config import load_recipe
from frolic.data.controlled import hold_out
from frolic.errors import CheckpointError, ConfigError
from frolic.models.registry import families
from frolic.train.jobs import JobRegistry
from frolic.train.state import load_checkpoint
from frolic.train.tasks import control
from frolic.train.tasks.base import check_precision
from frolic.train.trainer import Outcome, Trainer
from small_pack import write_small_pack
from tiny import write_tiny_folder

JOBS = JobRegistry({"control": "frolic.train.tasks.control"})


@pytest.fixture
def base(tmp_path) -> Path:
    return write_tiny_folder(tmp_path / "base")


@pytest.fixture
def pack(tmp_path) -> Path:
    return write_small_pack(tmp_path / "pack")


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for number in range(3):
        Image.effect_noise((40 + number, 36), 90).convert("RGB").save(path / f"p{number}.png")
        (path / f"p{number}.txt").write_text(f"a blue bird, {number}")
    Image.new("RGB", (32, 32), "white").save(path / "p1.control.png")
    return path


def train(name: str, root: Path, base: Path, *more: str, until: int | None = None) -> Outcome:
    tiny = [
        f"vars.model={base}", f"output.folder={root}", f"data.cache={root.parent / 'cache'}", "data.side=32",
        "job.layers=1", "trainer.steps=2", "trainer.device=cpu", "optimizer.lr=0.01", "model.dtype=float32",
    ]  # fmt: skip
    recipe = load_recipe(name, [*tiny, *more], environment="ci", jobs=JOBS)
    torch.manual_seed(0)
    return Trainer(recipe, JOBS.build(recipe)).run(until=until)


def test_from_sprites_to_a_controlnet_that_leads(tmp_path, base, pack):
    outcome = train("starter/control", tmp_path / "run", base, f"data.pack={pack}", "trainer.preview_every=2")
    assert outcome.export is not None
    report = json.loads((outcome.export / control.REPORT).read_text())
    assert report["injection"] == "diffusers" and report["held_out"]["pictures"] == 1
    assert report["held_out"]["loss_with_control"] != report["held_out"]["loss_without_control"]
    with Image.open(next((tmp_path / "run" / "previews").iterdir())) as sheet:
        assert sheet.size == (64, 64), "a picture, its edges, with them and without"

    led = frolic.load(base, controlnet=outcome.export)
    edges = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    drawn = [
        led("a red panda", seed=1, height=32, width=32, control=edges, control_scale=scale, output="tensor").pixels
        for scale in (0.0, 5.0)
    ]
    plain = frolic.load(base)("a red panda", seed=1, height=32, width=32, output="tensor").pixels
    assert torch.equal(drawn[0], plain), "with the scale at 0, it is the transformer alone"
    assert not torch.allclose(drawn[1], plain, atol=1e-3)

    again = train(
        "starter/control", tmp_path / "again", base, f"data.pack={pack}", f"trainer.init_from={outcome.export}"
    )
    assert again.step == 2


def test_the_export_is_diffusers_own(tmp_path, base, folder):
    diffusers = pytest.importorskip("diffusers")
    outcome = train("sana/control", tmp_path / "run", base, f"data.folder={folder}")
    assert outcome.export is not None
    theirs = diffusers.SanaControlNetModel.from_pretrained(outcome.export).eval()
    net = frolic.load(base, controlnet=outcome.export).controlnet
    generator = torch.Generator().manual_seed(0)
    x, picture, text = (torch.randn(*shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 4, 8, 8), (2, 5, 16)))
    t, mask = torch.tensor([700.0, 30.0]), torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        wanted = theirs(x, text, t, picture, conditioning_scale=0.7, encoder_attention_mask=mask, return_dict=False)[0]
        branch = net.control(picture, net.context(text, mask), scale=0.7).begin(x, t)
        plain = net.embed(x, t, net.context(text, mask))
        found = branch.after(1, plain).x - plain.x
    assert float(wanted[0].abs().max()) > 0
    assert float((found - wanted[0]).abs().max()) < 1e-4 * float(plain.x.abs().max())


@pytest.mark.parametrize("injection", ["diffusers", "native"])
def test_two_steps_are_one_and_one(tmp_path, base, pack, injection):
    common = (base, f"data.pack={pack}", f"job.injection={injection}")
    straight = train("starter/control", tmp_path / "straight", *common)
    train("starter/control", tmp_path / "halves", *common, until=1)
    halves = train("starter/control", tmp_path / "halves", *common)
    a, b = (load_checkpoint(run.checkpoint) for run in (straight, halves))
    for group, tensors in a.tensors.items():
        assert all(torch.equal(tensor, b.tensors[group][name]) for name, tensor in tensors.items()), group
    assert straight.export is not None
    assert json.loads((straight.export / control.REPORT).read_text())["injection"] == injection


def test_what_is_trained_and_what_stays(tmp_path, base, pack):
    outcome = train("starter/control", tmp_path / "run", base, f"data.pack={pack}")
    assert outcome.export is not None
    after = load_file(outcome.export / "diffusion_pytorch_model.safetensors")
    before = load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    same = {name for name in after.keys() & before.keys() if torch.equal(after[name], before[name].bfloat16())}
    stays = ("patch_embed.", "time_embed.", "caption_projection.", "caption_norm.")
    # What is added to all keys alike changes no softmax: only rounding moves it.
    same = {name for name in same if not name.endswith("to_k.bias")}
    assert same == {name for name in after if name.startswith(stays)}
    assert float(after["controlnet_blocks.0.weight"].abs().max()) > 0, "no longer zero"


def test_it_learns_to_follow_and_the_report_says_so(tmp_path, base, pack):
    recipe = load_recipe(
        "starter/control",
        [
            f"vars.model={base}", f"data.pack={pack}", f"data.cache={tmp_path / 'cache'}", "data.side=32",
            f"output.folder={tmp_path / 'run'}", "job.layers=1", "trainer.device=cpu", "trainer.steps=60",
            "optimizer.lr=0.02", "schedule.warmup=0", "trainer.ema=0", "model.dtype=float32",
        ],
        environment="ci",
        jobs=JOBS,
    )  # fmt: skip
    job = JOBS.build(recipe)
    net = job.objective.modules()["controlnet"]
    held = job.source.batch(0, 8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = job.objective.held_out(net, held)
    assert first["loss_with_control"] == pytest.approx(first["loss_without_control"], rel=1e-6), "zero at first"
    Trainer(recipe, job).run()
    with torch.no_grad():
        last = job.objective.held_out(net, held)
    assert last["loss_without_control"] == first["loss_without_control"], "the transformer has not changed"
    assert last["loss_with_control"] < 0.95 * last["loss_without_control"]


def test_other_pictures_or_another_model_stop_a_resumed_run(tmp_path, base, folder):
    run = ("sana/control", tmp_path / "run", base, f"data.folder={folder}")
    train(*run, until=1)
    (folder / "p0.txt").write_text("another caption")
    with pytest.raises(ConfigError, match="another training set"):
        train(*run)


def test_latents_are_computed_once(tmp_path, base, folder, monkeypatch):
    train("sana/control", tmp_path / "one", base, f"data.folder={folder}")

    def refuse(*_):
        raise AssertionError("cached latents are not encoded again")

    monkeypatch.setattr(control, "_latents", refuse)
    train("sana/control", tmp_path / "two", base, f"data.folder={folder}")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ("data.side=30", ConfigError, "multiple of 4"),
        ("data.held_out=9", ConfigError, "hold out fewer"),
        ("data.folder=x", ConfigError, "give one"),
        ("job.layers=2", CheckpointError, "fewer than 2"),
        ("job.injection=both", ConfigError, "injection"),
        (["model.dtype=bfloat16", "trainer.precision=fp32"], ConfigError, "set one of them"),
    ],
)
def test_what_cannot_work_is_refused_first(tmp_path, base, pack, change, error, said):
    with pytest.raises(error, match=said):
        train(
            "starter/control",
            tmp_path / "run",
            base,
            f"data.pack={pack}",
            *([change] if isinstance(change, str) else change),
        )
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_model_that_was_published_in_float16_is_not_trained_with_in_bfloat16():
    published = {entry.name: entry for entry in families()["sana"].published}

    def check(name, dtype, half):
        check_precision(SimpleNamespace(name=name, published=published[name]), dtype, half)

    with pytest.raises(ConfigError, match="noise in bfloat16"):
        check("sana-1.6b-1024", "float32", True)
    check("sana-1.6b-1024", "float32", False)
    check("sana-1.6b-1024-bf16", "bfloat16", True)


def test_in_bfloat16_the_model_and_its_previews_work(tmp_path, base, folder):
    outcome = train(
        "sana/control", tmp_path / "run", base, f"data.folder={folder}", "model.dtype=bfloat16",
        "trainer.precision=bf16", "trainer.preview_every=2",
    )  # fmt: skip
    assert outcome.export is not None
    figures = json.loads((outcome.export / control.REPORT).read_text())["held_out"]
    assert 0 < figures["loss_with_control"] < 10


def test_held_out_kinds_are_not_trained_with():
    groups = torch.arange(10).repeat_interleave(3)
    rows, held = hold_out(groups, 4)
    assert len(held) == 4 and len(rows) == 18
    assert not set(groups[rows].tolist()) & set(groups[held].tolist())
    assert all(torch.equal(a, b) for a, b in zip(hold_out(groups, 4), (rows, held), strict=True))
