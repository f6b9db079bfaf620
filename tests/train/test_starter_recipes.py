"""The three shipped recipes, end to end at a tiny size: data in, a folder that draws out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import frolic
from frolic.config import load_recipe
from frolic.data.starter.concepts import Concept
from frolic.data.starter.pack import SIDE, write
from frolic.errors import ConfigError
from frolic.io.safetensors import load
from frolic.train.jobs import built_in
from frolic.train.perceptual import LPIPS
from frolic.train.tasks import distillation, flow, reconstruction
from frolic.train.trainer import Trainer

NAMES = ("cup", "hat", "kite")
TINY = {
    "starter/text": [
        "model.config.vocab_size=300", "model.config.hidden_size=16", "model.config.intermediate_size=24",
        "model.config.num_hidden_layers=2", "vars.head_dim=4",
    ],
    "starter/autoencoder": [
        "model.config.latent_channels=4", "model.config.attention_head_dim=8", "data.side=32", "data.previews=2",
        "model.config.encoder_block_out_channels=[4, 8, 8, 8, 16]",
        "model.config.decoder_block_out_channels=[4, 8, 8, 8, 16]",
    ],
    "starter/image": [
        "model.config.in_channels=4", "model.config.out_channels=4", "model.config.num_attention_heads=2",
        "model.config.attention_head_dim=8", "model.config.num_cross_attention_heads=2",
        "model.config.cross_attention_head_dim=8", "model.config.cross_attention_dim=16",
        "model.config.num_layers=2", "model.config.caption_channels=16", "data.side=32", "data.variants_plain=1",
        "job.card.height=32", "job.card.width=32", "job.card.steps=2",
    ],
}  # fmt: skip


@pytest.fixture
def pack(tmp_path) -> Path:
    generator = torch.Generator().manual_seed(0)
    sprites = torch.randint(0, 256, (len(NAMES), 4, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    concepts = [Concept(n, n, n, "objects", (f"a {n}", n), (f"{n} thing",), i == 0) for i, n in enumerate(NAMES)]
    write(tmp_path / "pack", sprites, concepts, {})
    return tmp_path / "pack"


def train(name: str, root: Path, pack: Path, *more: str) -> Path:
    jobs = built_in()
    common = [f"output.folder={root}", f"data.pack={pack}", "trainer.steps=2", "trainer.device=cpu"]
    recipe = load_recipe(name, [*TINY.get(name, []), *common, *more], environment="ci", jobs=jobs)
    outcome = Trainer(recipe, jobs.build(recipe)).run()
    assert outcome.step == 2 and outcome.export is not None
    return outcome.export


def test_from_sprites_to_a_model_that_draws(tmp_path, pack, monkeypatch):
    def embed(sentences, cache):
        """In place of the teacher, whose weights a download would bring."""
        vectors = torch.randn(len(sentences), distillation.WIDTH, generator=torch.Generator().manual_seed(1))
        return torch.nn.functional.normalize(vectors, dim=-1)

    monkeypatch.setattr(distillation, "embed", embed)
    cache = f"data.cache={tmp_path / 'cache'}"
    text = train("starter/text", tmp_path / "text", pack, cache)
    encoder = train("starter/autoencoder", tmp_path / "autoencoder", pack)
    monkeypatch.setattr(reconstruction, "load_lpips", lambda cache: LPIPS())
    autoencoder = train(
        "starter/decoder", tmp_path / "decoder", pack, *TINY["starter/autoencoder"],
        f"vars.autoencoder={tmp_path / 'autoencoder'}",
    )  # fmt: skip
    before, after = (load(folder / "vae" / "diffusion_pytorch_model.safetensors") for folder in (encoder, autoencoder))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}, "latents stay as they are"
    folder = train(
        "starter/image", tmp_path / "image", pack, cache, f"vars.autoencoder={autoencoder}", f"vars.text={text}"
    )
    result = frolic.load(folder)("a cup on a blue background", seed=1)
    assert result.images[0].size == (32, 32)
    assert result.model.name == "starter"

    def refuse(*_):
        raise AssertionError("cached latents are not encoded again")

    with monkeypatch.context() as patch:
        patch.setattr(flow, "encode_variants", refuse)
        train("starter/image", tmp_path / "again", pack, cache, f"vars.autoencoder={autoencoder}", f"vars.text={text}")

    # Another autoencoder at the same path means other latents: the run must not go on with, or export, the mixture.
    shutil.rmtree(tmp_path / "decoder" / "checkpoints")
    train(
        "starter/decoder", tmp_path / "decoder", pack, *TINY["starter/autoencoder"],
        f"vars.autoencoder={tmp_path / 'autoencoder'}", "trainer.seed=5",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="another autoencoder"):
        train("starter/image", tmp_path / "image", pack, cache, f"vars.autoencoder={autoencoder}", f"vars.text={text}")
