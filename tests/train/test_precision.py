"""What a recipe's ``auto`` computes in."""

from __future__ import annotations

import pytest
import torch

from frolic.accel.arithmetic import has_bfloat16
from frolic.config import MuonSection, OptimizerSection, TrainerSection
from frolic.train.device import in_bfloat16
from frolic.train.optim import Optimizers

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "quick", "half"),
    [("auto", True, True), ("auto", False, False), ("bf16", False, True), ("fp32", True, False)],
)
def test_bfloat16_is_taken_where_the_device_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, quick: bool, half: bool
) -> None:
    monkeypatch.setattr("frolic.train.device.has_bfloat16", lambda device: quick)
    assert in_bfloat16(precision, CPU) is half  # type: ignore[arg-type]
    section = OptimizerSection(kind="muon", lr=1e-3, muon=MuonSection(precision=precision))  # type: ignore[arg-type]
    (muon,) = Optimizers({"w": torch.nn.Parameter(torch.ones(4, 4))}, section)._optimizers
    assert muon.dtype == (torch.bfloat16 if half else torch.float32)  # type: ignore[attr-defined]


def test_auto_is_what_a_recipe_says_by_default() -> None:
    assert TrainerSection(steps=1, batch_size=1).precision == "auto"


def test_a_cpu_has_it_where_one_of_its_instructions_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for wide, tiles in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda found=wide: found)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda found=tiles: found)
        assert has_bfloat16(CPU) is (wide or tiles)
