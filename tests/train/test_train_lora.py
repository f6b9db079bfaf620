"""Training an adapter, end to end at a tiny size: captioned pictures in, files that other programs read out."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

import frolic
from frolic.adapters import read, shelf
from frolic.config import load_recipe
from frolic.data.folder import read_entries
from frolic.data.shapes import nearest, sizes
from frolic.errors import ConfigError, FileError
from frolic.io.safetensors import read_header
from frolic.lora.trained import Factors, Learning, chosen
from frolic.train.checkpointing import recompute
from frolic.train.jobs import JobRegistry
from frolic.train.state import load_checkpoint
from frolic.train.tasks.lora import Beside, Data, Prior, encode
from frolic.train.trainer import Outcome, Trainer

JOBS = JobRegistry({"lora": "frolic.train.tasks.lora"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for number, size in enumerate([(40, 40), (64, 34), (33, 66)]):
        Image.effect_noise(size, 90).convert("RGB").save(path / f"p{number}.png")
        (path / f"p{number}.txt").write_text(f"a blue bird, {number}")
    return path


def train(
    root: Path, base: Path, folder: Path, *more: str, until: int | None = None, name: str = "starter/lora"
) -> Outcome:
    tiny = [
        f"vars.model={base}", f"vars.pictures={folder}", f"output.folder={root}", f"data.cache={root.parent / 'cache'}",
        "data.side=32", "trainer.steps=4", "trainer.device=cpu", "optimizer.lr=0.01", "job.rank=2", "job.alpha=3",
        "schedule.warmup=0",
    ]  # fmt: skip
    recipe = load_recipe(name, [*tiny, *more], environment="ci", jobs=JOBS)
    torch.manual_seed(0)
    return Trainer(recipe, JOBS.build(recipe)).run(until=until)


def test_from_pictures_to_an_adapter_that_changes_what_is_drawn(tmp_path: Path, base: Path, folder: Path) -> None:
    outcome = train(tmp_path / "run", base, folder, "trainer.preview_every=4", "vars.title=Bird")
    assert outcome.export is not None
    assert {path.name for path in outcome.export.iterdir() if path.name[0] != "."} == {
        "pytorch_lora_weights.safetensors", "comfyui.safetensors", "training.json",
    }  # fmt: skip
    with Image.open(next((tmp_path / "run" / "previews").iterdir())) as sheet:
        assert sheet.size[0] * sheet.size[1] >= 6 * 32 * 32, "each caption with the adapter and without"
    pipe = frolic.load(base)
    plain = pipe("a blue bird", seed=1, output="tensor").pixels
    drawn = [
        pipe("a blue bird", seed=1, output="tensor", loras={str(outcome.export / name): 1.0}).pixels
        for name in ("pytorch_lora_weights.safetensors", "comfyui.safetensors")
    ]
    assert drawn[0] is not None and drawn[1] is not None and plain is not None
    assert (drawn[0] - plain).abs().max() > 1e-3
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=1e-3)
    metadata = read_header(outcome.export / "comfyui.safetensors").metadata
    assert metadata["ss_output_name"] == "Bird" and metadata["ss_network_dim"] == "2"
    report = json.loads((outcome.export / "training.json").read_text())
    assert report["rank"] == 2 and report["pictures"] == 3


@pytest.mark.parametrize("more", [[], ["job.recompute=true"], ["trainer.precision=fp32", "trainer.workers=1"]], ids=str)
def test_two_halves_are_the_whole(tmp_path: Path, base: Path, folder: Path, more: list[str]) -> None:
    straight = train(tmp_path / "straight", base, folder, *more)
    train(tmp_path / "halves", base, folder, *more, until=2)
    halves = train(tmp_path / "halves", base, folder, *more)
    one, two = (load_checkpoint(outcome.checkpoint).tensors["adapter"] for outcome in (straight, halves))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert any(tensor.abs().sum() > 0 for key, tensor in one.items() if key.startswith("up"))


def test_prior_pictures_and_a_warm_start(tmp_path: Path, base: Path, folder: Path) -> None:
    prior = ['data.prior={prompts: ["an orange cat"], count: 2, share: 0.5}']
    first = train(tmp_path / "first", base, folder, *prior)
    assert first.export is not None
    warm = (f"trainer.init_from={first.export}", "trainer.steps=1", "optimizer.lr=1e-9")
    again = train(tmp_path / "again", base, folder, *warm)
    assert again.export is not None
    pipe = frolic.load(base)
    drawn = [
        pipe("a blue bird", seed=1, output="tensor", loras={str(each.export): 1.0}).pixels for each in (first, again)
    ]
    assert drawn[0] is not None and drawn[1] is not None
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=5e-3)


def test_targets_are_chosen_by_name(tmp_path: Path, base: Path, folder: Path) -> None:
    shapes = {"blocks.0.attn.qkv": (3, 1), "blocks.0.mlp.expand": (4, 1), "out": (1, 1)}
    assert set(chosen(shapes, ["blocks.*", "!*.mlp.*"])) == {"blocks.0.attn.qkv"}
    with pytest.raises(ConfigError, match="match no linear"):
        train(tmp_path / "run", base, folder, "job.targets=[block.*]")


def test_factors_begin_as_nothing_and_can_be_left_out(base: Path) -> None:
    transformer = frolic.load(base).transformer
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500.0])
    text, mask = torch.randn(1, 3, 16), torch.ones(1, 3, dtype=torch.bool)
    plain = transformer(x, t, text, mask)
    shapes = {"blocks.0.attn.qkv": (96, 32), "blocks.1.mlp.project": (32, 80)}
    factors = Factors(shapes, 2, 2.0, torch.Generator().manual_seed(0))
    learning = Learning(transformer, factors)
    torch.testing.assert_close(transformer(x, t, text, mask), plain)
    with torch.no_grad():
        factors.up[0].fill_(0.5)
    assert not torch.allclose(transformer(x, t, text, mask), plain, atol=1e-4)
    with learning.reading(None):
        assert torch.allclose(transformer(x, t, text, mask), plain)
    grads = []
    for _ in range(2):
        loss = transformer(x, t, text, mask).square().mean()
        grads.append(torch.autograd.grad(loss, list(factors.parameters())))
        recompute(transformer.blocks)  # the second time nothing is kept inside a block
    for kept, computed in zip(*grads, strict=True):
        torch.testing.assert_close(kept, computed)


def test_captions_in_a_table(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    rows = [{"file_name": "a.png", "text": "one"}, {"file_name": "b.png", "text": "two"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert [entry.caption for entry in read_entries(tmp_path)] == ["one", "two"]
    (tmp_path / "b.txt").write_text("three")
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join([*map(json.dumps, rows), '{"file_name": "c.png", "text": "x"}', "no", json.dumps(rows[0])])
    )
    with pytest.raises(FileError) as error:
        read_entries(tmp_path)
    for said in ("both in a file and", "without a picture (1): c.png", "line 4", "two lines"):
        assert said in str(error.value)


def test_shapes_are_of_one_area_and_near() -> None:
    found = sizes(256, 32)
    assert (256, 256) in found and all(h % 32 == w % 32 == 0 for h, w in found)
    assert all(abs(h * w / 256**2 - 1) <= 0.2 and max(h, w) <= 2 * min(h, w) for h, w in found)
    assert nearest((100, 100), found) == (256, 256)
    tall, wide = nearest((300, 200), found), nearest((200, 300), found)
    assert tall == wide[::-1] and tall[0] > tall[1]
    assert sizes(1024, 32, 1024) and (1024, 1024) in sizes(1024, 32, 1024)
    assert sizes(32, 32) == [(32, 32)]


def test_an_exported_adapter_can_be_read_alone(tmp_path: Path, base: Path, folder: Path) -> None:
    from frolic.adapters import target
    from frolic.models.sana.spec import SANA

    outcome = train(tmp_path / "run", base, folder, "trainer.steps=1", name="sana/lora")
    assert outcome.export is not None
    spec = SANA.components["transformer"]
    goal = target(spec, frolic.load(base).transformer.config)
    adapter = read(outcome.export, goal)
    assert adapter.ranks == [2]  # q, k and v share what is stored three times


def test_a_new_thing_by_its_recipe(tmp_path: Path, base: Path, folder: Path) -> None:
    more = ("data.prior.count=3", "vars.trigger=plimbo", "data.weight=0.8", "vars.title=thing")
    outcome = train(tmp_path / "run", base, folder, *more, name="starter/dreambooth")
    assert outcome.export is not None
    report = json.loads((outcome.export / "training.json").read_text())
    assert (report["trigger"], report["pictures"], report["prior_pictures"]) == ("plimbo", 3, 3)
    said = shelf.described("thing", outcome.export / "pytorch_lora_weights.safetensors")
    assert (said.base, said.rank, said.trigger, said.weight) == ("tiny", "2", "plimbo", 0.8)
    assert said.trained_on == "3 pictures"


def test_prior_pictures_take_their_share_of_the_batches(base: Path, folder: Path, tmp_path: Path) -> None:
    drawn: list[str] = []
    pipe = frolic.load(base)
    true = pipe.stream

    def counted(prompt: str, **fields: Any) -> Any:
        drawn.append(prompt)
        return true(prompt, **fields)

    pipe.stream = counted  # type: ignore[method-assign]
    prior = Prior(prompts=["an orange cat", "two dogs"], count=3, share=0.25)
    data = Data(folder=str(folder), side=32, prior=prior, cache=str(tmp_path / "cache"))
    source = encode(pipe, read_entries(folder), data, ["key"])
    assert drawn == ["an orange cat", "two dogs", "an orange cat"], "the model itself draws them"
    assert len(source.buckets[-1].latents) == 3 and source.buckets[-1].share == 0.25
    assert sum(bucket.share for bucket in source.buckets) == pytest.approx(1.0)
    encode(pipe, read_entries(folder), data, ["key"])
    assert len(drawn) == 3, "once"


def test_pictures_beside_others_take_their_share(
    base: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from frolic.train.tasks import lora

    asked: list[str] = []
    monkeypatch.setattr(lora, "_cut_drawn", lambda pipe, name, side: asked.append(name) or torch.ones(4, 9, 9))
    pipe = frolic.load(base)
    others = Beside(others=["an orange cat", "two dogs"], count=5, share=0.25)
    prior = Prior(prompts=["a blue bird"], count=1, share=0.5)
    data = Data(folder=str(folder), side=32, trigger="bird", beside=others, prior=prior, cache=str(tmp_path / "cache"))
    with caplog.at_level("INFO", "frolic.train"):
        source = encode(pipe, read_entries(folder), data, ["key"])
    assert not asked and "nothing that could be cut out" in caplog.text
    assert [bucket.share for bucket in source.buckets[-1:]] == [0.5]
    assert sum(bucket.share for bucket in source.buckets) == pytest.approx(1.0)
    plain = Image.new("RGB", (40, 40), "white")
    plain.paste("red", (10, 12, 30, 28))
    plain.save(folder / "p1.png")
    for _ in range(2):
        source = encode(pipe, read_entries(folder), data, ["key"])
        assert len(source.buckets[-1].latents) == 5 and [bucket.share for bucket in source.buckets[-2:]] == [0.5, 0.25]
        assert sum(bucket.share for bucket in source.buckets) == pytest.approx(1.0)
    assert asked == ["an orange cat", "two dogs"], "once"
    with pytest.raises(ValidationError, match="give the trigger"):
        Data(folder=str(folder), side=32, beside=others)
    with pytest.raises(ValidationError, match="leave nothing"):
        Data(folder=str(folder), side=32, trigger="x", beside=others, prior=prior.model_copy(update={"share": 0.75}))


def test_what_is_preserved_is_not_what_it_is_measured_with() -> None:
    recipe = load_recipe("starter/dreambooth", [], environment=None, jobs=JOBS)
    said = recipe.data["prior"]["prompts"]
    rows = json.loads(resources.files("frolic.eval").joinpath("everyday.json").read_text("utf-8"))
    assert len(said) == len(set(said)) == recipe.data["prior"]["count"]
    assert not {*said, *recipe.data["beside"]["others"]} & {row["prompt"] for row in rows}


def test_no_prompts_to_preserve_anything_with(tmp_path: Path, base: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.prior\.prompts"):
        train(tmp_path / "run", base, folder, "data.prior={prompts: [], count: 2}")
