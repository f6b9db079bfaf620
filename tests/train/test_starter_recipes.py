"""The shipped recipes of the starter, end to end at a tiny size: data in, a folder that draws out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import frolic
from frolic.config import load_recipe
from frolic.data.starter.pack import write
from frolic.data.starter.packages import WORDNET
from frolic.data.starter.wordnet import Synset, WordNet
from frolic.errors import CheckpointError, ConfigError, FrolicError
from frolic.io.safetensors import load
from frolic.train.jobs import built_in
from frolic.train.perceptual import LPIPS
from frolic.train.tasks import distillation, reconstruction, scenes
from frolic.train.trainer import Trainer
from small_pack import small_concepts, small_sprites, write_small_pack
from tiny import write_tiny_folder

AUTOENCODER = [
    "model.config.latent_channels=4", "model.config.attention_head_dim=8", "data.side=64", "data.previews=2",
    "model.config.encoder_block_out_channels=[4, 4, 8, 8, 8, 16]",
    "model.config.decoder_block_out_channels=[4, 4, 8, 8, 8, 16]",
]  # fmt: skip
TINY = {
    "starter/text": [
        "model.config.vocab_size=300", "model.config.hidden_size=16", "model.config.intermediate_size=24",
        "model.config.num_hidden_layers=2", "vars.head_dim=4", "data.scenes=20", "data.composed=20",
    ],
    "starter/autoencoder": AUTOENCODER,
    "starter/decoder": AUTOENCODER,
    "starter/image": [
        "model.config.in_channels=4", "model.config.out_channels=4", "model.config.num_attention_heads=2",
        "model.config.attention_head_dim=8", "model.config.num_cross_attention_heads=2",
        "model.config.cross_attention_head_dim=8", "model.config.cross_attention_dim=16",
        "model.config.num_layers=2", "model.config.caption_channels=16", "data.pictures=24",
        # 256x256 was the largest share; it is set to nothing.
        "data.shapes={256x256: 0, 320x192: 0, 192x320: 0, 64x64: 2, 96x64: 1, 64x96: 1}",
        "job.card.height=64", "job.card.width=64", "job.card.steps=2",
    ],
}  # fmt: skip


@pytest.fixture
def pack(tmp_path) -> Path:
    return write_small_pack(tmp_path / "pack")


def train(name: str, root: Path, pack: Path, *more: str) -> Path:
    jobs = built_in()
    common = [f"output.folder={root}", f"data.pack={pack}", "trainer.steps=2", "trainer.device=cpu"]
    recipe = load_recipe(name, [*TINY.get(name, []), *common, *more], environment="ci", jobs=jobs)
    outcome = Trainer(recipe, jobs.build(recipe)).run()
    assert outcome.step == 2 and outcome.export is not None
    return outcome.export


def words() -> WordNet:
    """Two common things and a rare one."""
    nouns = ("cup", "vase", "urn")
    synsets = {noun: Synset(noun, "n", "artifact", (noun,), (), f"what is called {noun}") for noun in nouns}
    return WordNet(synsets, {(noun, "n"): (noun,) for noun in synsets}, {("cup", "n"): 2, ("vase", "n"): 1})


def no_teacher(sentences, cache):
    """In place of the teacher, whose weights a download would bring."""
    vectors = torch.randn(len(sentences), distillation.WIDTH, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(vectors, dim=-1)


def test_from_sprites_to_a_model_that_draws(tmp_path, pack, monkeypatch):
    monkeypatch.setattr(distillation, "embed", no_teacher)
    monkeypatch.setattr(distillation, "fetch", lambda packages, cache: {WORDNET: cache})
    monkeypatch.setattr(distillation.wordnet, "read", lambda path: words())
    monkeypatch.setattr(distillation, "pieces", lambda words, cache: [1] * len(words))
    monkeypatch.setattr(reconstruction, "load_lpips", lambda cache: LPIPS())
    cache = f"data.cache={tmp_path / 'cache'}"
    text = train("starter/text", tmp_path / "text", pack, cache)
    encoder = train("starter/autoencoder", tmp_path / "autoencoder", pack)
    autoencoder = train(
        "starter/decoder", tmp_path / "decoder", pack, f"vars.autoencoder={tmp_path / 'autoencoder'}"
    )  # fmt: skip
    before, after = (load(folder / "vae" / "diffusion_pytorch_model.safetensors") for folder in (encoder, autoencoder))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}, "latents stay as they are"
    folder = train(
        "starter/image", tmp_path / "image", pack, cache, f"vars.autoencoder={autoencoder}", f"vars.text={text}"
    )
    result = frolic.load(folder)("a cup to the left of a drum", seed=1)
    assert result.images[0].size == (64, 64)
    assert result.model.name == "starter"
    wide = frolic.load(folder)("two drums", seed=1, width=96, height=64)
    assert wide.images[0].size == (96, 64)


@pytest.fixture
def parts(tmp_path) -> list[str]:
    """An autoencoder of stride 4 and a text encoder that nobody trained."""
    folder = write_tiny_folder(tmp_path / "tiny")
    return [f"vars.autoencoder={folder}", f"vars.text={folder}", f"data.cache={tmp_path / 'cache'}"]


def test_latents_are_computed_once_and_belong_to_all_they_were_made_from(tmp_path, pack, parts, monkeypatch):
    train("starter/image", tmp_path / "image", pack, *parts)
    kept = {path.name for path in (tmp_path / "cache").iterdir()}

    def refuse(*_):
        raise AssertionError("cached latents are not encoded again")

    with monkeypatch.context() as patch:
        patch.setattr(scenes, "_latents", refuse)
        train("starter/image", tmp_path / "again", pack, *parts)
        assert {path.name for path in (tmp_path / "cache").iterdir()} == kept
        for change in ("data.seed=2", "data.pictures=30", "data.mix={single: 1}", "data.shapes.96x64=3"):
            with pytest.raises(AssertionError, match="encoded again"):
                train("starter/image", tmp_path / "changed", pack, *parts, change)
        said = [replace(concept, near=("a whatsit",)) for concept in small_concepts()]
        write(tmp_path / "said", small_sprites(), said, {})
        train("starter/image", tmp_path / "other-words", tmp_path / "said", *parts)
        write(tmp_path / "drawn", small_sprites().flip(1), small_concepts(), {})
        with pytest.raises(AssertionError, match="encoded again"):
            train("starter/image", tmp_path / "other-pictures", tmp_path / "drawn", *parts)

    # Another autoencoder at the same path means other latents: the run must not go on with, or export, the mixture.
    shutil.rmtree(tmp_path / "tiny" / "vae")
    shutil.copytree(write_tiny_folder(tmp_path / "other", seed=1) / "vae", tmp_path / "tiny" / "vae")
    with pytest.raises(ConfigError, match="another autoencoder"):
        train("starter/image", tmp_path / "image", pack, *parts)


def test_a_run_begins_with_the_weights_of_an_export_and_can_go_on_from_its_step(tmp_path, pack, parts):
    first = train("starter/image", tmp_path / "image", pack, *parts)
    recipe = load_recipe(
        "starter/image",
        [
            *TINY["starter/image"], *parts, f"data.pack={pack}", f"output.folder={tmp_path / 'more'}",
            f"trainer.init_from={first}", "trainer.init_step=2", "trainer.steps=3", "trainer.device=cpu",
        ],
        environment="ci",
        jobs=built_in(),
    )  # fmt: skip
    trainer = Trainer(recipe, built_in().build(recipe))
    outcome = trainer.run(until=2)
    given = load(first / "transformer" / "diffusion_pytorch_model.safetensors")
    assert outcome.step == 2 and outcome.export is not None, "nothing was left to do"
    got = load(outcome.export / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, got[name]) for name, tensor in given.items())
    assert Trainer(recipe, built_in().build(recipe)).run().step == 3
    lines = (tmp_path / "more" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3]
    with pytest.raises(CheckpointError, match="does not fit the model"):
        train("starter/image", tmp_path / "z", pack, *parts, f"trainer.init_from={first}", "model.config.num_layers=1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.shapes.46x64=1", r"data\.shapes: give WIDTHxHEIGHT, both multiples of 4,.*not 46x64\.$"),
        ("data.shapes={64x64: 0, 96x64: 0, 64x96: 0}", "with a share above 0"),
        ("data.shapes={'64': 1, ax3: 1, 64x0: 1}", "not 64, ax3, 64x0"),
        ("data.shapes.64x64=-1", "greater than or equal to 0"),
        ("data.mix={singel: 1}", "'singel', did you mean 'single'"),
        ("data.mix={single: 0}", "at least one of them above 0"),
        ("data.mix={two: -1}", "greater than or equal to 0"),
        ("data.everyday_weight=4", "unknown key 'data.everyday_weight'"),
        ("vars.autoencoder=runs/none", r"^runs/none/vae is not there\. A run of another recipe makes it"),
        ("vars.text=runs/none", r"^runs/none/text_encoder is not there.*a model that has a text encoder"),
    ],
)
def test_data_that_cannot_be_meant(tmp_path, pack, parts, change, said):
    with pytest.raises(ConfigError, match=said):
        train("starter/image", tmp_path / "image", pack, *parts, change)
    assert not (tmp_path / "cache").exists(), "found before anything is computed"


def test_sizes_are_height_and_width_with_their_shares():
    data = scenes.Data(autoencoder="a", text="t", pictures=100, shapes={"256x256": 3.0, "320x192": 1.0, "192x320": 0.0})
    assert data.sizes(32) == {(256, 256): 0.75, (192, 320): 0.25}
    shown = {size: scenes._scenes(data, small_concepts(), size, share) for size, share in data.sizes(32).items()}
    assert [len(each) for each in shown.values()] == [75, 25]
    assert {scene.kind for scene in shown[256, 256]} >= {"single", "two", "count"}
    wide = [thing.x for scene in shown[192, 320] for thing in scene.things if len(scene.things) > 1]
    assert max(wide) > 0.7 and min(wide) < 0.3


def test_a_pack_without_what_a_kind_of_scene_asks_for_is_refused(tmp_path, pack, parts):
    from frolic.data.starter.pack import read, write

    sprites, concepts = read(pack)
    write(tmp_path / "faces", sprites[:1], concepts[-1:], {})
    with pytest.raises(FrolicError, match="placeable"):
        train("starter/image", tmp_path / "image", tmp_path / "faces", *parts, "data.mix={two: 1}")
