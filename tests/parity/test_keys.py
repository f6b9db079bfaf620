"""The names and shapes of every published layout, and that weights pass through all of them unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from frolic.keymap import KeyMap
from frolic.models.dcae import DCAE, DCAEConfig
from frolic.models.dcae import keymap as dcae_keys
from frolic.models.dcae.config import RES, VIT, Stage
from frolic.models.sana import SanaConfig, SanaControlNet, SanaControlNetConfig, SanaTransformer
from frolic.models.sana import keymap as sana_keys
from frolic.models.sana.variants import CONTROLNETS, VARIANTS

FACTS = json.loads((Path(__file__).parent / "original_names.json").read_text("utf-8"))
"""Original name to diffusers' names, for one block of each kind and for the rest, as diffusers' conversion scripts give
them for whole models."""

TINY = {"in_channels": 4, "out_channels": 4, "heads": 4, "head_dim": 2, "cross_heads": 2, "cross_head_dim": 4,
        "caption_channels": 6, "layers": 3}  # fmt: skip
BLOCKS = {"encoder": "down_blocks", "decoder": "up_blocks"}


def on_meta(build, config) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build(config).state_dict()


def randomised(build, config) -> dict[str, Tensor]:
    return {name: torch.randn(tensor.shape) for name, tensor in on_meta(build, config).items()}


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert shapes(one) == shapes(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def names_by_original(original: KeyMap, diffusers: KeyMap, ours: Mapping[str, Tensor]) -> dict[str, list[str]]:
    return {name: diffusers.theirs(original.ours(name)) for name in original.save(ours)}


def expand(block: Mapping[str, list[str]], **holes: object) -> dict[str, list[str]]:
    return {key.format(**holes): [name.format(**holes) for name in names] for key, names in block.items()}


def transformer_facts(config: SanaConfig) -> dict[str, list[str]]:
    known = dict(FACTS["transformer"]["globals"])
    if config.guidance_embeds:
        known |= FACTS["guided"]["globals"]
    block = {k: v for k, v in FACTS["transformer"]["block"].items() if config.qk_norm or "_norm" not in k}
    for i in range(config.layers):
        known |= expand(block, i=i)
    return known


def controlnet_facts(config: SanaConfig) -> dict[str, list[str]]:
    known = {k: v for k, v in FACTS["transformer"]["globals"].items() if not k.startswith("final_layer")}
    known |= FACTS["controlnet"]["globals"]
    for i in range(config.layers):
        known |= expand(FACTS["controlnet"]["block"], i=i)
    return known


def autoencoder_facts(config: DCAEConfig) -> dict[str, list[str]]:
    known = dict(FACTS["autoencoder"]["ends"])
    for side, stages in (("encoder", config.encoder), ("decoder", config.decoder)):
        for i, stage in enumerate(stages):
            order = [{RES: "res", VIT: "vit"}[stage.kind]] * stage.layers
            if i < len(stages) - 1:
                order = [*order, "down"] if side == "encoder" else ["up", *order]
            for j, kind in enumerate(order):
                known |= expand(FACTS["autoencoder"][kind], side=side, blocks=BLOCKS[side], i=i, j=j)
    return known


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_transformer_has_the_published_names_and_shapes(variant):
    config = VARIANTS[variant]
    ours = on_meta(SanaTransformer, config)
    original, diffusers = sana_keys.original_keys(config), sana_keys.diffusers_keys(config)
    assert names_by_original(original, diffusers, ours) == transformer_facts(config)
    theirs = original.save(ours)
    assert theirs["blocks.0.attn.qkv.weight"].shape == (3 * config.width, config.width)
    assert theirs["blocks.0.mlp.point_conv.conv.weight"].shape == (config.width, config.hidden, 1, 1)
    for keymap in (original, diffusers, original.under("model.diffusion_model.")):
        assert shapes(keymap.load(keymap.save(ours))) == shapes(ours)


@pytest.mark.parametrize("variant", ["600m", "1.5-1.6b", "sprint-0.6b"])
def test_diffusers_has_the_same_transformers(variant):
    diffusers = pytest.importorskip("diffusers")
    config = VARIANTS[variant]
    with torch.device("meta"):
        theirs = diffusers.SanaTransformer2DModel.from_config(config.to_json()).state_dict()
    assert shapes(sana_keys.diffusers_keys(config).save(on_meta(SanaTransformer, config))) == shapes(theirs)


@pytest.mark.parametrize("variant", CONTROLNETS)
def test_every_controlnet_has_the_published_names_and_shapes(variant):
    diffusers = pytest.importorskip("diffusers")
    config = CONTROLNETS[variant]
    ours = on_meta(SanaControlNet, config)
    original, published = sana_keys.original_controlnet_keys(config), sana_keys.controlnet_keys(config)
    assert names_by_original(original, published, ours) == controlnet_facts(config)
    with torch.device("meta"):
        theirs = diffusers.SanaControlNetModel.from_config(config.to_json()).state_dict()
    assert shapes(published.save(ours)) == shapes(theirs)
    assert shapes(original.load(original.save(ours))) == shapes(ours)


def test_the_autoencoder_has_the_published_names_and_shapes():
    diffusers = pytest.importorskip("diffusers")
    config = DCAEConfig(down="conv", up="interpolate", scaling_factor=0.41407)
    ours = on_meta(DCAE, config)
    original, published = dcae_keys.original_keys(config), dcae_keys.diffusers_keys(config)
    assert names_by_original(original, published, ours) == autoencoder_facts(config)
    with torch.device("meta"):
        theirs = diffusers.AutoencoderDC.from_config(config.to_json()).state_dict()
    assert shapes(published.save(ours)) == shapes(theirs)
    assert shapes(original.load(original.save(ours))) == shapes(ours)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "guidance_embeds": True}, {"patch_size": 2}])
def test_a_transformer_passes_through_all_layouts_unchanged(changes):
    config = SanaConfig(**TINY, **changes)
    ours = randomised(SanaTransformer, config)
    published, original = sana_keys.diffusers_keys(config), sana_keys.original_keys(config)
    theirs = original.save(ours)
    assert_same(published.load(published.save(original.load(theirs))), ours)
    assert_same(original.save(published.load(published.save(ours))), theirs)
    dropped = {name: torch.zeros(2) for name in FACTS["dropped"]}
    assert_same(original.load({**theirs, **dropped}), ours)
    assert original.wanted({**theirs, **dropped}).keys() == theirs.keys()


def test_a_controlnet_passes_through_all_layouts_unchanged():
    config = SanaControlNetConfig(**TINY)
    ours = randomised(SanaControlNet, config)
    published, original = sana_keys.controlnet_keys(config), sana_keys.original_controlnet_keys(config)
    base = sana_keys.original_keys(SanaConfig(**TINY)).save(randomised(SanaTransformer, SanaConfig(**TINY)))
    theirs = original.save(ours)
    beside = {name: base[name] for name in base if name not in theirs}
    assert_same(published.load(published.save(original.load({**beside, **theirs}))), ours)


def tiny_autoencoder(**changes: object) -> DCAEConfig:
    stages = (Stage(RES, 8, 1), Stage(RES, 16, 2), Stage(VIT, 32, 1, (5,)))
    made = {"latent_channels": 4, "head_dim": 8, "encoder": stages, "decoder": stages, **changes}
    return DCAEConfig(**made)


AUTOENCODERS = {
    "SANA's": tiny_autoencoder(down="conv", up="interpolate"),
    "folding": tiny_autoencoder(),
    "entered at half the side": tiny_autoencoder(
        encoder=(Stage(RES, 8, 0), Stage(RES, 16, 1), Stage(VIT, 32, 1)),
        decoder=(Stage(RES, 8, 0), Stage(RES, 16, 1), Stage(VIT, 32, 1)),
    ),
}


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_an_autoencoder_passes_through_all_layouts_unchanged(kind):
    config = AUTOENCODERS[kind]
    ours = randomised(DCAE, config)
    published, original = dcae_keys.diffusers_keys(config), dcae_keys.original_keys(config)
    theirs = original.save(ours)
    assert len(theirs) == len({name for name in theirs if name.startswith(("encoder.", "decoder."))})
    assert all(original.knows(name) for name in theirs)
    assert_same(published.load(published.save(original.load(theirs))), ours)


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_diffusers_converts_an_autoencoder_to_the_same(kind):
    utilities = pytest.importorskip("diffusers.loaders.single_file_utils")
    config = AUTOENCODERS[kind]
    ours = randomised(DCAE, config)
    theirs = utilities.convert_autoencoder_dc_checkpoint_to_diffusers(dcae_keys.original_keys(config).save(ours))
    assert_same(theirs, dcae_keys.diffusers_keys(config).save(ours))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_diffusers_converts_a_transformer_to_the_same(prefix):
    utilities = pytest.importorskip("diffusers.loaders.single_file_utils")
    config = SanaConfig(**TINY)
    ours = randomised(SanaTransformer, config)
    # It insists on two tensors that it then throws away.
    given = sana_keys.original_keys(config).save(ours) | {
        "pos_embed": torch.zeros(1, 4, 8),
        "y_embedder.y_embedding": torch.zeros(3, 6),
    }
    theirs = utilities.convert_sana_transformer_to_diffusers({prefix + k: v for k, v in given.items()})
    assert_same(theirs, sana_keys.diffusers_keys(config).save(ours))


def test_diffusers_loads_what_was_the_authors(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    config = SanaConfig(**TINY, qk_norm=True, guidance_embeds=True)
    original = sana_keys.original_keys(config)
    theirs: nn.Module = diffusers.SanaTransformer2DModel.from_config(config.to_json())
    given = original.save(randomised(SanaTransformer, config))
    theirs.load_state_dict(sana_keys.diffusers_keys(config).save(original.load(given)), strict=True)
