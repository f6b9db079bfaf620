"""The published checkpoints, as data."""

from __future__ import annotations

import re

import pytest
import torch

from frolic.models.sana import SanaConfig, SanaControlNet, SanaControlNetConfig, SanaTransformer
from frolic.models.sana.published import PUBLISHED, PUBLISHED_CONTROLNETS
from frolic.models.sana.variants import CONTROLNETS, VARIANTS, at_size
from frolic.spec import SamplingDefaults

BY_NAME = {entry.name: entry for entry in PUBLISHED}
ALL = (*PUBLISHED, *PUBLISHED_CONTROLNETS)
MILLIONS = {
    "600m": 591.7, "1.6b": 1604.5, "1.5-1.6b": 1604.6, "1.5-4.8b": 4721.8, "sprint-0.6b": 593.5,
    "sprint-1.6b": 1610.2,
}  # fmt: skip


@pytest.mark.parametrize("field", ["name", "original"])
def test_they_are_told_apart(field):
    values = [getattr(entry, field) for entry in ALL]
    assert len(set(values)) == len(values) and all(values)


def test_places_have_the_form_of_places():
    repos = [entry.repo for entry in PUBLISHED]
    assert len(set(repos)) == len(repos)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", repo) for repo in repos)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+:checkpoints/[\w.-]+\.pth", entry.original) for entry in ALL)
    assert all(re.fullmatch(r"sana(-\w+|-\d\.\d+b?)+", entry.name) for entry in ALL)


@pytest.mark.parametrize("name", MILLIONS)
def test_they_have_as_many_parameters_as_published(name):
    with torch.device("meta"):
        count = sum(p.numel() for p in SanaTransformer(VARIANTS[name]).parameters())
    assert count == pytest.approx(MILLIONS[name] * 1e6, rel=0.005)


def test_size_changes_no_weight():
    with torch.device("meta"):
        shapes = [
            {name: p.shape for name, p in SanaTransformer(at_size(VARIANTS["1.6b"], size)).state_dict().items()}
            for size in (512, 1024, 4096)
        ]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("name", CONTROLNETS)
def test_controlnets_fit_their_transformers(name):
    assert not CONTROLNETS[name].differences(VARIANTS[name])
    with torch.device("meta"):
        assert SanaControlNet(CONTROLNETS[name]).controlnet_blocks[6].weight.shape[0] == VARIANTS[name].width


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
def test_configs_survive_being_written(entry):
    kind = type(entry.config)
    assert kind in (SanaConfig, SanaControlNetConfig)
    assert kind.from_json(entry.config.to_json()) == entry.config
    assert entry.config.sample_size * 32 == entry.size


def test_only_2k_and_4k_have_positions():
    scales = {entry.name: entry.config.interpolation_scale for entry in ALL if entry.config.interpolation_scale}
    assert scales == {"sana-1.6b-2k": 1.0, "sana-1.6b-4k": 2.0}


def test_dtype_rules():
    """What was trained in float16 is never drawn with in bfloat16, or the other way round; all parts can be float32."""
    for entry in ALL:
        part = "transformer" if entry in PUBLISHED else "controlnet"
        half, full = entry.dtypes[part]
        assert full == "float32"
        assert half == ("float16" if entry.variant == "fp16" else "bfloat16")
        assert all("float16" not in entry.dtypes[name] for name in ("vae", "text_encoder") if name in entry.dtypes)
    assert {entry.name for entry in PUBLISHED if entry.variant == "fp16"} == {
        "sana-600m-512", "sana-600m-1024", "sana-1.6b-512", "sana-1.6b-512-multiling", "sana-1.6b-1024",
        "sana-1.6b-1024-multiling",
    }  # fmt: skip


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_defaults_are_known_ones(entry):
    family = SamplingDefaults(1024, 1024, 20, 4.5, "dpmpp_2m", 3.0, 300)
    drawn = SamplingDefaults(**{**vars(family), **entry.defaults})
    assert drawn.height == drawn.width == drawn.bin_base == entry.size
    assert drawn.shift == (6.0 if entry.size == 4096 else 3.0)
    assert drawn.steps == (2 if entry.config.guidance_embeds else 20)
