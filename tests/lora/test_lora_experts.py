"""Which of two experts a file is for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from frolic.adapters import read
from frolic.adapters.own import own_target
from frolic.errors import RequestError
from frolic.lora.experts import of_expert, said_by
from frolic.strength import Strength, parse

ONE = {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": 1}


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("Wan2.2-Fun-A14B-InP-high-noise-HPS2.1", "high"),
        ("Wan2.2-Fun-A14B-InP-low-noise-MPS", "low"),
        ("wan22_HighNoise_style", "high"),
        ("wan_lownoise", "low"),
        ("style_LOW", "low"),
        ("style-high-v2", "high"),
        ("highlands", ""),
        ("slowmotion", ""),
        ("glow", ""),
        ("high_and_low", ""),
        ("wan2.2_t2v_high_14B_fp8_v1.1", "high"),
        ("style_low_lora_rank16", "low"),
        ("low-expert_style", "low"),
        ("low-poly", ""),
        ("LowPoly_style", ""),
        ("my_low_key_light", ""),
        ("HighContrast", ""),
        ("high_quality", ""),
        ("style_high_low", ""),
    ],
)
def test_a_name_says_it_only_where_it_is_a_word(name: str, expert: str) -> None:
    assert said_by(name, ONE, {}) == expert


def test_keys_count_before_metadata_and_metadata_before_the_name() -> None:
    second = {"transformer_2.blocks.0.attn1.to_q.lora_A.weight": 1}
    assert said_by("x-high-noise", second, {"frolic.expert": "high"}) == "low"
    assert said_by("x-high-noise", ONE, {"frolic.expert": "low"}) == "low"
    assert said_by("x-high-noise", {**second, **ONE}, {}) == ""


def test_a_file_of_both_is_taken_apart_and_one_of_the_second_alone_is_whole() -> None:
    high, low = "transformer.proj_out.lora_A.weight", "transformer_2.proj_out.lora_A.weight"
    both = {high: 1, low: 2}
    assert of_expert(both, "high") == {high: 1} and of_expert(both, "low") == {high: 2}
    assert of_expert({low: 2}, "high") == of_expert({low: 2}, "low") == {high: 2}
    assert of_expert(ONE, "low") == ONE


def test_a_file_of_the_second_alone_can_be_looked_into_without_its_model(tmp_path: Path) -> None:
    down, up = torch.ones(2, 8), torch.ones(4, 2)
    for prefix in ("transformer", "transformer_2"):
        key = f"{prefix}.blocks.0.attn1.to_q"
        save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, tmp_path / f"{prefix}.safetensors")
        path = tmp_path / f"{prefix}.safetensors"
        adapter = read(path, own_target([path]))
        assert adapter.deltas.keys() == {"blocks.0.attn1.to_q"} and adapter.ranks == [2]


def test_a_strength_can_name_the_expert() -> None:
    assert parse("glow:0.6,target=low") == ("glow", Strength(0.6, target="low"))
    assert Strength.of(Strength(0.6, target="low").to_json()) == Strength(0.6, target="low")
    with pytest.raises(RequestError, match="target='middle'"):
        parse("glow,target=middle")


def test_layers_of_the_second_expert_alone_are_found_in_a_file_of_both(tmp_path: Path) -> None:
    tensors = {
        f"{part}.blocks.{block}.attn1.to_q.lora_{side}.weight": torch.ones(shape)
        for part, block in (("transformer", 0), ("transformer_2", 1))
        for side, shape in (("A", (2, 8)), ("B", (8, 2)))
    }
    save_file(tensors, tmp_path / "both.safetensors")
    goal = own_target([tmp_path / "both.safetensors"])
    for expert, block in (("high", 0), ("low", 1)):
        deltas = read(tmp_path / "both.safetensors", goal, expert=expert).deltas
        assert [*deltas] == [f"blocks.{block}.attn1.to_q"]
