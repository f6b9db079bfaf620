"""Distilling a model into one of a few steps, end to end at a tiny size: a teacher in, a folder that draws out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import frolic
from frolic.config import load_recipe
from frolic.errors import ConfigError
from frolic.io.files import write_json
from frolic.models.sana import SanaTransformer
from frolic.pipeline import Pipeline
from frolic.train.jobs import JobRegistry
from frolic.train.state import load_checkpoint
from frolic.train.tasks.student import student_of
from frolic.train.trainer import Outcome, Trainer
from tiny import write_tiny_folder

JOBS = JobRegistry({"sprint": "frolic.train.tasks.sprint", "lora": "frolic.train.tasks.lora"})
SCENES = [
    "data.scenes.pictures=8", "data.scenes.shapes={256x256: 0, 320x192: 0, 192x320: 0, 32x32: 2, 48x32: 1}",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for number in range(3):
        Image.effect_noise((40, 40), 90).convert("RGB").save(path / f"p{number}.png")
        (path / f"p{number}.txt").write_text(f"a blue bird, {number}")
    return path


def train(name: str, root: Path, base: Path, *more: str, until: int | None = None) -> Outcome:
    tiny = [
        f"vars.model={base}", f"output.folder={root}", "trainer.steps=4", "trainer.init_from=null", "job.warmup=2",
        "trainer.device=cpu", "schedule.warmup=0",
        "job.adversarial.blocks=[0, 1]", "job.adversarial.width=8", "trainer.log_every=1",
    ]  # fmt: skip
    recipe = load_recipe(name, [*tiny, *more], environment="ci", jobs=JOBS)
    return Trainer(recipe, JOBS.build(recipe)).run(until=until)


def scenes(pack: Path, cache: Path) -> list[str]:
    return [*SCENES, f"data.scenes.pack={pack}", f"data.scenes.cache={cache}"]


def test_from_a_teacher_to_a_model_of_two_steps(tmp_path, base, pack):
    outcome = train(
        "starter/sprint", tmp_path / "run", base, *scenes(pack, tmp_path / "cache"), "trainer.preview_every=4",
        "job.previews=[a cup, a drum]", "job.trajectory=null", "job.warmup=2",
    )  # fmt: skip
    assert outcome.step == 4 and outcome.export is not None
    with Image.open(next((tmp_path / "run" / "previews").iterdir())) as sheet:
        assert sheet.size == (64, 32)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [("judged" in line, "consistency" in line) for line in lines] == [(False, True), (True, False)] * 2
    drawn = frolic.load(outcome.export)
    result = drawn("a cup", seed=1)
    assert (drawn.card.name, result.request.steps, result.request.guidance_scale) == ("starter-sprint", 2, 4.0)
    assert result.images[0].size == (32, 32) and drawn.defaults.max_tokens == 12
    again = train(
        "starter/sprint", tmp_path / "again", base, *scenes(pack, tmp_path / "cache"), "trainer.steps=1",
        f"trainer.init_from={outcome.export}", until=0,
    )  # fmt: skip
    assert again.export is not None
    one, other = (
        load_file(run.export / "transformer" / "diffusion_pytorch_model.safetensors") for run in (outcome, again)
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_diffusers_reads_what_was_made(tmp_path, base, folder):
    diffusers = pytest.importorskip("diffusers")
    given = [f"data.folder={folder}", "data.side=32", f"data.cache={tmp_path / 'cache'}", "model.dtype=float32"]
    outcome = train("sana/sprint", tmp_path / "run", base, *given, "trainer.steps=2")
    assert outcome.export is not None
    index = json.loads((outcome.export / "model_index.json").read_text())
    assert index["_class_name"] == "SanaSprintPipeline" and index["scheduler"][1] == "SCMScheduler"
    scheduler = diffusers.SCMScheduler.from_pretrained(outcome.export / "scheduler")
    assert scheduler.config.prediction_type == "trigflow" and scheduler.config.sigma_data == 0.5
    theirs = diffusers.SanaTransformer2DModel.from_pretrained(outcome.export / "transformer").eval()
    ours = frolic.load(outcome.export).transformer
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    level, mask = torch.tensor([0.9, 0.2]), torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        told = {"timestep": level, "guidance": torch.full((2,), 0.45), "encoder_attention_mask": mask}
        wanted = theirs(x, encoder_hidden_states=text, return_dict=False, **told)[0]
        got = ours(x, level, text, mask, guidance_B=torch.full((2,), 4.5))
    assert float((got - wanted).abs().max()) < 1e-4 * float(wanted.max() - wanted.min())


@pytest.mark.parametrize("more", [[], ["job.trajectory=null"]], ids=str)
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path, base, pack, more):
    given = (base, *scenes(pack, tmp_path / "cache"), "job.warmup=3", "job.adversarial.r1=0.1", *more)
    straight = train("starter/sprint", tmp_path / "straight", *given)
    train("starter/sprint", tmp_path / "parts", *given, until=1)
    train("starter/sprint", tmp_path / "parts", *given, until=2)
    parts = train("starter/sprint", tmp_path / "parts", *given)
    a, b = (load_checkpoint(run.checkpoint) for run in (straight, parts))
    assert {"transformer", "uncertainty", "heads", "transformer.ema", "optimizer"} <= a.tensors.keys()
    for group, tensors in a.tensors.items():
        assert all(torch.equal(tensor, b.tensors[group][name]) for name, tensor in tensors.items()), group


@pytest.mark.parametrize("more", [[], ["job.trajectory=null"]], ids=str)
def test_passes_on_threads_give_what_one_after_the_other_gives(tmp_path, base, pack, more):
    """Forward derivatives are the process's: two at once would mix. To rounding: a pass that has all threads adds up in
    another order than one that has a core to itself."""
    # A step in proportion to the gradient: by its sign alone, rounding would decide where it is next to nothing.
    steps = ("optimizer.kind=adamw", "optimizer.groups=[]", "optimizer.eps=0.1", "optimizer.lr=0.01")
    given = (base, *scenes(pack, tmp_path / "cache"), "trainer.accumulation=2", "trainer.precision=fp32", *steps, *more)
    one = train("starter/sprint", tmp_path / "one", *given)
    two = train("starter/sprint", tmp_path / "two", *given, "trainer.workers=2")
    a, b = (load_checkpoint(run.checkpoint).tensors for run in (one, two))
    for group, tensors in a.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and group != "random":
                torch.testing.assert_close(tensor, b[group][name], rtol=1e-3, atol=1e-5, msg=f"{group} {name}")


def test_the_ends_of_trajectories_first_and_then_the_heads_too(tmp_path, base, pack):
    """The two recipes of the starter, one after the other, stored as they are shipped."""
    few = ["job.trajectory.steps=2", "trainer.steps=2"]
    tiny = [f"vars.model={base}", "trainer.device=cpu", "trainer.log_every=1", *scenes(pack, tmp_path / "cache"), *few]
    recipe = load_recipe(
        "starter/sprint-ends", [*tiny, f"output.folder={tmp_path / 'ends'}"], environment="ci", jobs=JOBS
    )
    ends = Trainer(recipe, JOBS.build(recipe)).run()
    lines = (tmp_path / "ends" / "metrics.jsonl").read_text().splitlines()
    assert all("ends_of_starts" in line and "judged" not in line for line in lines) and len(lines) == 2
    outcome = train(
        "starter/sprint", tmp_path / "run", base, *scenes(pack, tmp_path / "cache"), *few,
        f"vars.begin={ends.export}", "trainer.init_from=${begin}",
    )  # fmt: skip
    assert outcome.export is not None and ends.export is not None
    first, second = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert "ends" in first and "opinion" in first and "judged" in second


def test_without_heads_it_is_consistency_alone(tmp_path, base, pack):
    outcome = train(
        "starter/sprint", tmp_path / "run", base, *scenes(pack, tmp_path / "cache"), "job.adversarial=null",
        "optimizer.groups=[]", "trainer.steps=1",
    )  # fmt: skip
    assert "heads" not in load_checkpoint(outcome.checkpoint).tensors


def loaded(folder: Path) -> Pipeline:
    return frolic.load(folder, device="cpu")


def test_the_student_begins_as_its_teacher(base):
    pipe = loaded(base)
    teacher = pipe.transformer
    torch.manual_seed(0)
    student = student_of(teacher)
    assert isinstance(student, SanaTransformer) and all(p.requires_grad for p in student.parameters())
    text = pipe.encode(["a red panda", "a cat"])
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        for level in (0.05, 0.5, 0.95):
            s = torch.full((2,), level)
            wanted = teacher(x, 1000 * s, text.embeds, text.mask)
            told = [student(x, s, text.embeds, text.mask, guidance_B=torch.full((2,), w)) for w in (1.0, 5.0)]
            assert torch.equal(*told), "the scale means nothing yet"
            assert (told[0] - wanted).norm() < 0.1 * wanted.norm()
            assert torch.equal(student.blocks[1].attn.qkv.weight, teacher.blocks[1].attn.qkv.weight)


def test_the_embedding_of_time_is_fitted_or_taken_over():
    from dataclasses import replace

    from given import transformer_config

    torch.manual_seed(1)
    config = replace(transformer_config(), heads=8, head_dim=16, cross_heads=2, cross_head_dim=64)
    level = torch.linspace(0, 1, 301)
    dense = SanaTransformer(replace(config, timestep_scale=0.001))
    with torch.no_grad():
        assert torch.allclose(student_of(dense).time(level), dense.time(1000 * level * 0.001), atol=1e-6)
        assert torch.equal(student_of(dense).time.fc1.weight, dense.time.fc1.weight)
        # One that changes slowly by the level, as that of a trained model does.
        slow = SanaTransformer(config)
        slow.time.fc1.weight[:, :64] = 0
        slow.time.fc1.weight[:, 128:192] = 0
        wanted, got = slow.time(1000 * level), student_of(slow).time(level)
    assert float((got - wanted).square().mean().sqrt()) < 0.05 * float(wanted.std(dim=0).square().mean().sqrt())
    assert float(student_of(slow).time.fc2.weight.detach().abs().max()) < 20


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["job.adversarial.blocks=[0, 7]"], r"has no block \[7\]; it has 0 to 1"),
        (["job.adversarial.blocks=[1, 1]"], "names a block twice"),
        (["data.folder=x"], "either scenes or a folder"),
        (["data.cache=x"], r"scenes\.cache"),
        (["data.side=32"], "give both or neither"),
        (["job.guidance=[]"], "at least 1 item"),
        (["job.card.steps=5"], "less than or equal to 4"),
        (["model.dtype=bfloat16", "trainer.precision=fp32"], "cannot train with"),
    ],
)
def test_what_cannot_be_meant(tmp_path, base, pack, more, said):
    with pytest.raises(ConfigError, match=said):
        train("starter/sprint", tmp_path / "run", base, *scenes(pack, tmp_path / "cache"), *more)


def test_a_model_of_a_few_steps_neither_teaches_nor_takes_flows(tmp_path, pack, folder):
    few = write_tiny_folder(tmp_path / "few", sprint=True)
    with pytest.raises(ConfigError, match="no model that others are made from"):
        train("starter/sprint", tmp_path / "run", few, *scenes(pack, tmp_path / "cache"))
    recipe = load_recipe(
        "starter/lora",
        [f"vars.model={few}", f"data.folder={folder}", "data.side=32", f"output.folder={tmp_path / 'lora'}"],
        environment="ci",
        jobs=JOBS,
    )
    with pytest.raises(ConfigError, match="train the adapter on the model it was made from: it fits both"):
        JOBS.build(recipe)


def test_an_adapter_of_the_full_model_fits_the_one_of_a_few_steps(tmp_path, base, folder):
    """Trained on the teacher, used with the student: what it changes there is what merging would change."""
    recipe = load_recipe(
        "starter/lora",
        [
            f"vars.model={base}", f"data.folder={folder}", "data.side=32", f"data.cache={tmp_path / 'cache'}",
            f"output.folder={tmp_path / 'lora'}", "trainer.steps=3", "trainer.device=cpu", "optimizer.lr=0.05",
            "schedule.warmup=0", "trainer.preview_every=never",
        ],
        environment="ci",
        jobs=JOBS,
    )  # fmt: skip
    adapter = Trainer(recipe, JOBS.build(recipe)).run().export / "pytorch_lora_weights.safetensors"
    few = write_tiny_folder(tmp_path / "few", sprint=True)
    given = {"seed": 1, "output": "tensor"}
    plain = loaded(few)("a blue bird", **given).pixels
    led = frolic.load(few, loras={str(adapter): 1.0})("a blue bird", **given)
    assert led.notes == [] and (led.pixels - plain).abs().max() > 1e-3

    tensors = {name: tensor.float() for name, tensor in load_file(adapter).items()}
    path = few / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for name in [name for name in tensors if name.endswith("lora_A.weight")]:
        key = name.removeprefix("transformer.").replace("lora_A.", "")
        change = tensors[name.replace("lora_A", "lora_B")].flatten(1) @ tensors[name].flatten(1)
        weights[key] = weights[key] + change.reshape(weights[key].shape)
    save_file(weights, path)
    own = json.loads((few / "frolic.json").read_text())
    write_json(few / "frolic.json", {**own, "name": "merged"}, force=True)
    assert (loaded(few)("a blue bird", **given).pixels - led.pixels).abs().max() < 1e-4
