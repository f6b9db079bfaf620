"""A text encoder that is taught where the things of a prompt are."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frolic.config import load_recipe
from frolic.data.scenes import scenes
from frolic.errors import ConfigError
from frolic.io.safetensors import load
from frolic.io.tokenizer import Tokenizer
from frolic.train.jobs import built_in
from frolic.train.objectives.layout import Layout, PlaceReader
from frolic.train.tasks.layout import Told
from frolic.train.trainer import Trainer
from small_pack import small_concepts

JOBS = built_in()


def train(folder: Path, base: Path, pack: Path, *changes: str, until: int | None = None) -> Any:
    tiny = [
        f"vars.text={base}", f"data.pack={pack}", "data.scenes=30", "job.tokens=12", "job.store=bfloat16",
        f"output.folder={folder}", "trainer.device=cpu",
    ]  # fmt: skip
    recipe = load_recipe("starter/text-layout", [*tiny, *changes], "ci", jobs=JOBS)
    return Trainer(recipe, JOBS.build(recipe)).run(until=until)


def test_what_comes_out_is_a_text_encoder_with_the_same_tokenizer(tmp_path: Path, base: Path, pack: Path) -> None:
    export = train(tmp_path / "run", base, pack).export
    assert {path.name for path in export.iterdir() if path.is_dir()} == {"text_encoder", "tokenizer"}
    assert (export / "tokenizer" / "tokenizer.json").read_bytes() == (base / "tokenizer/tokenizer.json").read_bytes()
    before, after = (load(folder / "text_encoder" / "model.safetensors") for folder in (base, export))
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    # And the next stages take it as they take any other.
    assert train(tmp_path / "again", base, pack, f"data.text={export}").step == 4


def test_a_run_goes_on_to_the_same_bits(tmp_path: Path, base: Path, pack: Path) -> None:
    whole = train(tmp_path / "whole", base, pack).export
    train(tmp_path / "parts", base, pack, until=2)
    parts = train(tmp_path / "parts", base, pack).export
    one, two = (load(folder / "text_encoder" / "model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_each_caption_has_its_own_scene(base: Path) -> None:
    shown = scenes(small_concepts(), 40, seed=3, mix={"position": 1.0, "colour": 1.0, "count": 1.0})
    tokenizer = Tokenizer(base / "tokenizer" / "tokenizer.json")
    said: dict[tuple[int, ...], list[Any]] = {}
    for scene in shown:
        told = [[thing.concept, bool(thing.said), *torch.tensor([thing.x, thing.y]).tolist()] for thing in scene.things]
        for caption in scene.captions:
            said.setdefault(tuple(tokenizer.ids(caption)[:24]), []).append(told)
    batch = Told.of(shown, tokenizer, 24).batch(0, 64, torch.Generator().manual_seed(0))
    for row in range(64):
        there = batch["things"][row] >= 0
        assert torch.equal(there, batch["colours"][row] >= 0)
        columns = (batch["things"][row], batch["colours"][row] > 0, *batch["places"][row].unbind(-1))
        found = [list(thing) for thing in zip(*(column[there].tolist() for column in columns), strict=True)]
        # Words that this small tokenizer does not know are all one to it.
        assert found in said[tuple(batch["ids"][row][batch["mask"][row]].tolist())]
    assert batch["mask"][:, -1].any(), "as long as the longest, and no longer"


class Words(nn.Module):
    """States that say which word is where in the text and which words were before, as a causal encoder's do."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embed, self.before = nn.Embedding(words, width), nn.Embedding(words, width)

    def forward(self, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        return self.embed(ids_BS) + self.before(ids_BS).cumsum(dim=1)


def test_order_is_learned_and_what_was_there_stays() -> None:
    # "a < b" and "a > b": words 0 and 1 are left and right of, the others are things.
    torch.manual_seed(0)
    rng = random.Random(0)
    encoder = Words(8, 16)
    with torch.no_grad():
        encoder.before.weight.mul_(0.01)  # hardly anything is said of what was before
    layout = Layout(encoder, PlaceReader(16, 8, 2, heads=2), anchor=1.0)
    learned = [p for module in layout.modules().values() for p in module.parameters()]
    optimizer = torch.optim.Adam(learned, lr=1e-2)
    for _ in range(150):
        rows = [(*rng.sample(range(2, 8), 2), rng.randrange(2)) for _ in range(64)]
        ids = torch.tensor([[first, way, second] for first, second, way in rows])
        left = torch.tensor([[first, second] if way == 0 else [second, first] for first, second, way in rows])
        batch = {
            "ids": ids,
            "mask": torch.ones_like(ids, dtype=torch.bool),
            "things": left,
            "colours": torch.zeros_like(left),
            "places": torch.tensor([[0.25, 0.5], [0.75, 0.5]]).expand(64, -1, -1),
        }
        loss, said = layout.loss(batch, torch.Generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert said["order"] > 0.95 and said["thing"] > 0.95
    assert said["moved"] < 0.2
    assert all(parameter.grad is None for parameter in layout.before.parameters())


def test_shares_are_of_things_that_are_there_and_have_others() -> None:
    logits = torch.tensor([[[3.0, 2, 1], [3.0, 2, 1]], [[0.0, 5, 1], [9.0, 9, 9]]])  # two scenes, two places
    right, order = Layout._right(logits, torch.tensor([[0, 1], [2, -1]]))
    assert right == pytest.approx(1 / 3), "the first thing of the first scene"
    assert order == pytest.approx(1 / 2), "the second scene has one thing"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("job.anchor=-1", "greater than or equal to 0"),
        ("data.text=runs/none", "^runs/none/text_encoder is not there"),
        ("data.mix={positoin: 1}", "did you mean 'position'"),
        ("data.autoencoder=starter", "unknown key 'data.autoencoder'"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, base: Path, pack: Path, change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train(tmp_path / "run", base, pack, change)
