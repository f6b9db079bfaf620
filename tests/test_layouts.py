from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from frolic.errors import CheckpointError
from frolic.models.dcae import DCAE, DCAEConfig
from frolic.models.dcae import keymap as dcae_keys
from frolic.models.dcae.config import RES, VIT, Stage
from frolic.models.layouts import PREFIXES, detect, locate
from frolic.models.registry import families
from frolic.models.sana import SanaConfig, SanaControlNet, SanaControlNetConfig, SanaTransformer
from frolic.models.sana import keymap as sana_keys
from frolic.models.sana.variants import CONTROLNETS, VARIANTS, at_size

TINY = SanaConfig(
    in_channels=4, out_channels=4, heads=4, head_dim=2, cross_heads=2, cross_head_dim=4, caption_channels=6, layers=2
)


class Named(NamedTuple):
    shape: tuple[int, ...]


def written(build, config, keymap, prefix="", **extra) -> dict[str, Named]:
    """What a file of such a model would say it holds."""
    with torch.device("meta"):
        state = keymap(config).save(build(config).state_dict())
    named = {name: Named(tuple(tensor.shape)) for name, tensor in state.items()}
    return {prefix + name: value for name, value in {**named, **extra}.items()}


def transformer(config, prefix="", **extra):
    return written(SanaTransformer, config, sana_keys.original_keys, prefix, **extra)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_found_and_taken_away(prefix):
    config = VARIANTS["600m"]
    found = locate(transformer(config, prefix), families())
    assert (found.part, found.layout, found.prefix, found.config) == ("transformer", "original", prefix, config)
    assert found.keymap.theirs("blocks.3.cross.kv.bias") == [f"{prefix}blocks.3.cross_attn.kv_linear.bias"]


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "teacher" not in name])
def test_the_config_of_every_published_transformer_is_found(variant):
    found = locate(transformer(VARIANTS[variant]), families())
    assert found.config == VARIANTS[variant]
    assert any("1024 pixels" in text for text in found.assumed)


def test_a_teacher_of_sprint_cannot_be_told_from_1_5_and_that_is_said():
    teacher = VARIANTS["sprint-1.6b-teacher"]
    found = locate(transformer(teacher), families())
    assert found.config == VARIANTS["1.5-1.6b"] and any("counts time" in text for text in found.assumed)
    assert locate(transformer(teacher), families(), known={"transformer": teacher}).config == teacher


@pytest.mark.parametrize(("pixels", "said"), [(512, "adds none"), (2048, "scale 1.0"), (4096, "scale 2.0")])
def test_the_table_of_positions_tells_the_size_and_what_that_means_is_said(pixels, said):
    config = at_size(VARIANTS["1.6b"], pixels)
    table = Named((1, (pixels // 32) ** 2, config.width))
    found = locate(transformer(config, pos_embed=table), families())
    assert found.config == config
    assert [said in text for text in found.assumed] == [True]


def test_a_table_that_is_no_square_is_refused():
    with pytest.raises(CheckpointError, match="no square of tokens"):
        locate(transformer(VARIANTS["600m"], pos_embed=Named((1, 1000, 1152))), families())


@pytest.mark.parametrize("name", CONTROLNETS)
def test_a_controlnet_is_not_mistaken_for_the_transformer_in_its_file(name):
    config = CONTROLNETS[name]
    own = written(SanaControlNet, config, sana_keys.original_controlnet_keys)
    found = locate({**transformer(VARIANTS[name]), **own}, families())
    assert (found.part, found.config) == ("controlnet", config)
    assert found.keymap.wanted(found.entries).keys() == own.keys()


def test_the_autoencoder_and_its_config_are_found():
    config = DCAEConfig(down="conv", up="interpolate", scaling_factor=0.41407)
    found = locate(written(DCAE, config, dcae_keys.original_keys), families())
    assert (found.part, found.layout, found.config) == ("vae", "original", config)
    assert any("0.41407" in text for text in found.assumed)


def stages(*layers: int, kernels: tuple[int, ...] = ()) -> tuple[Stage, ...]:
    kinds = ((RES, 8, ()), (RES, 16, ()), (VIT, 32, kernels))
    return tuple(Stage(kind, width, n, own) for (kind, width, own), n in zip(kinds, layers, strict=True))


@pytest.mark.parametrize(
    "config",
    [
        DCAEConfig(latent_channels=4, head_dim=8, encoder=stages(1, 2, 1, kernels=(5,)), decoder=stages(2, 1, 1)),
        DCAEConfig(latent_channels=4, encoder=stages(0, 2, 1), decoder=stages(0, 1, 1), decoder_in_shortcut=False),
        DCAEConfig(latent_channels=4, encoder=stages(1, 1, 1), decoder=stages(1, 1, 1), down="conv", up="interpolate"),
    ],
)
def test_other_autoencoders_are_found_too(config):
    config = replace(config, scaling_factor=0.41407)
    assert locate(written(DCAE, config, dcae_keys.original_keys), families()).config == config


@pytest.mark.parametrize(
    ("build", "config", "keymap", "part"),
    [
        (SanaTransformer, VARIANTS["sprint-0.6b"], sana_keys.diffusers_keys, "transformer"),
        (SanaTransformer, TINY, sana_keys.diffusers_keys, "transformer"),
        (SanaControlNet, SanaControlNetConfig(), sana_keys.controlnet_keys, "controlnet"),
        (DCAE, DCAEConfig(), dcae_keys.diffusers_keys, "vae"),
    ],
)
def test_diffusers_names_are_known_and_need_a_config(build, config, keymap, part):
    tensors = written(build, config, keymap)
    found = detect(tensors, families())
    assert (found.part, found.layout, found.prefix) == (part, "diffusers", "")
    with pytest.raises(CheckpointError, match=r"no config\.json beside it"):
        locate(tensors, families())
    assert locate(tensors, families(), known={part: config}).config == config


def test_what_shapes_do_not_tell_comes_from_a_model_of_the_same_shape():
    with pytest.raises(CheckpointError, match="number of heads"):
        locate(transformer(TINY), families())
    known = replace(TINY, interpolation_scale=0.5, sample_size=8)
    found = locate(transformer(TINY), families(), known={"transformer": known})
    assert (found.config, found.assumed) == (known, ())


def test_a_model_of_another_shape_says_nothing_and_that_is_said():
    with pytest.raises(CheckpointError, match=r"number of heads.*differs in layers \(2 and 3\)"):
        locate(transformer(TINY), families(), known={"transformer": replace(TINY, layers=3)})
    other = at_size(VARIANTS["1.6b"], 4096)
    found = locate(transformer(VARIANTS["600m"]), families(), known={"transformer": other})
    assert found.config == VARIANTS["600m"]
    assert "says nothing about this one: it differs in heads (36 and 70)" in found.assumed[0]


def test_a_config_of_the_files_own_has_to_agree():
    found = locate(transformer(TINY), families(), own={"transformer": TINY})
    assert (found.config, found.assumed) == (TINY, ())
    with pytest.raises(CheckpointError, match=r"contradicts the config\.json beside it in layers \(2 and 3\)"):
        locate(transformer(TINY), families(), own={"transformer": replace(TINY, layers=3)}, known={"transformer": TINY})


@pytest.mark.parametrize("shape", [(), (3,), (0, 0, 0, 0), (2, 2, 2, 2, 2)])
@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_tensor_of_the_wrong_rank_is_a_problem_of_the_file(part, shape):
    if part == "transformer":
        tensors = transformer(replace(VARIANTS["600m"], layers=1), pos_embed=Named((1, 1024, 1152)))
        known = VARIANTS["600m"]
    else:
        small = DCAEConfig(latent_channels=4, encoder=stages(1, 1, 1, kernels=(5,)), decoder=stages(1, 1, 1))
        tensors, known = written(DCAE, small, dcae_keys.original_keys), small
    refused = 0
    for name in tensors:
        try:
            locate({**tensors, name: Named(shape)}, families(), known={part: known})
        except CheckpointError:
            refused += 1
    assert 0 < refused < len(tensors), "what tells nothing of the config is left to the comparison with the model"


@pytest.mark.parametrize(
    "names", [[], ["model.layers.0.weight", "double_blocks.0.img_attn.qkv.weight"], ["adaln_single.linear.weight"]]
)
def test_a_foreign_file_is_refused(names):
    with pytest.raises(CheckpointError, match="no model that frolic knows"):
        detect(names, families())


@pytest.mark.parametrize("gone", ["x_embedder.proj.weight", "y_embedder.y_proj.fc1.weight"])
def test_what_a_guess_cannot_do_without_is_named(gone):
    tensors = transformer(VARIANTS["600m"])
    del tensors[gone]
    with pytest.raises(CheckpointError, match=gone):
        locate(tensors, families())
