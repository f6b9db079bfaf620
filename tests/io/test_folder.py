from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from frolic.errors import CheckpointError, ModelNotFoundError, UnsafeFileError
from frolic.io.folder import open_folder
from frolic.models.registry import families
from frolic.plan import make_plan
from tiny import OWN


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    for key, change in changes.items():
        if change is None:
            value.pop(key, None)
        else:
            value[key] = change
    path.write_text(json.dumps(value))


def test_a_whole_folder_is_understood(tiny_folder: Path) -> None:
    folder = open_folder(tiny_folder, families())
    assert folder.name == "tiny" and folder.family.name == "sana"
    assert set(folder.components) == {"transformer", "vae", "text_encoder"}
    assert (folder.defaults.height, folder.defaults.steps, folder.defaults.shift) == (32, 3, 3.0)


def test_a_stock_folder_has_the_familys_defaults_and_its_schedulers_shift(own_folder: Path) -> None:
    (own_folder / "frolic.json").unlink()
    edit(own_folder / "scheduler/scheduler_config.json", flow_shift=6.0)
    folder = open_folder(own_folder, families())
    assert folder.name == "spoiled"
    assert (folder.defaults.height, folder.defaults.max_tokens, folder.defaults.shift) == (32, 300, 6.0)
    assert folder.defaults.instruction.endswith("User Prompt: ") and folder.defaults.bin_base == 0


@pytest.mark.parametrize(("side", "base"), [(16, 512), (32, 1024), (64, 2048), (128, 4096), (20, 0)])
def test_the_latents_side_says_which_sizes_it_was_trained_with(own_folder: Path, side: int, base: int) -> None:
    (own_folder / "frolic.json").unlink()
    edit(own_folder / "transformer/config.json", sample_size=side)
    defaults = open_folder(own_folder, families()).defaults
    assert (defaults.height, defaults.width, defaults.bin_base) == (4 * side, 4 * side, base)


def test_the_scheduler_chooses_the_sampler(own_folder: Path) -> None:
    (own_folder / "frolic.json").unlink()
    euler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.0, "num_train_timesteps": 1000}
    (own_folder / "scheduler/scheduler_config.json").write_text(json.dumps(euler))
    defaults = open_folder(own_folder, families()).defaults
    assert (defaults.sampler, defaults.shift) == ("euler", 2.0)


@pytest.mark.parametrize(
    ("settings", "sampler"),
    [
        ({"solver_order": 1}, "dpmpp_1s"),
        ({"solver_order": 2, "lower_order_final": False, "euler_at_final": True}, "dpmpp_2m"),
        ({"solver_type": "heun"}, "dpmpp_2m_heun"),
        ({"solver_order": 3}, "dpmpp_3m"),
        ({"solver_order": 3, "lower_order_final": False}, None),
        ({"solver_type": "bh2"}, None),
    ],
)
def test_the_solvers_settings_choose_the_sampler(own_folder: Path, settings: dict, sampler: str | None) -> None:
    (own_folder / "frolic.json").unlink()
    edit(own_folder / "scheduler/scheduler_config.json", **settings)
    if sampler is None:
        with pytest.raises(CheckpointError, match="scheduler"):
            open_folder(own_folder, families())
    else:
        assert open_folder(own_folder, families()).defaults.sampler == sampler


def test_a_scheduler_as_diffusers_saves_it_is_understood(own_folder: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    for scheduler in (
        diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ):
        scheduler.save_pretrained(own_folder / "scheduler")
        assert open_folder(own_folder, families()).defaults.shift == 3.0


def test_everything_that_is_wrong_is_said_at_once(own_folder: Path) -> None:
    edit(own_folder / "model_index.json", unet=["diffusers", "UNet"], vae=["diffusers", "AutoencoderKL"])
    edit(own_folder / "frolic.json", stepz=4, steps=0, height="big", family="wan", sampler="ddim", guidance_scale=-1)
    edit(own_folder / "transformer/config.json", num_layerz=3)
    edit(own_folder / "scheduler/scheduler_config.json", solver_order=4, flow_shfit=2)
    (own_folder / "text_encoder/model.safetensors").unlink()
    (own_folder / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        open_folder(own_folder, families())
    text = str(caught.value)
    for word in (
        *("unet", "AutoencoderKL", "stepz (near frolic.json: steps", "steps is 0", "'big'", "'wan'", "'ddim'", "-1"),
        *("num_layerz", "solver_order=4", "flow_shfit (near scheduler flow_shift)", "no weights", "tokenizer.json"),
    ):
        assert word in text


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "scheduler", "tokenizer"])
def test_a_missing_part_is_named(own_folder: Path, part: str) -> None:
    for file in (own_folder / part).iterdir():
        file.unlink()
    (own_folder / part).rmdir()
    with pytest.raises(CheckpointError, match=part):
        open_folder(own_folder, families())


@pytest.mark.parametrize("value", ["x", -1, 0, [1], None, {}])
def test_settings_of_the_wrong_kind_are_refused(own_folder: Path, value: object) -> None:
    path = own_folder / "transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": value}))
    with pytest.raises(CheckpointError):
        open_folder(own_folder, families())


@pytest.mark.parametrize(
    ("file", "key"),
    [
        *(("frolic.json", key) for key in OWN),
        ("model_index.json", "_class_name"),
        ("model_index.json", "vae"),
        ("scheduler/scheduler_config.json", "_class_name"),
        ("scheduler/scheduler_config.json", "flow_shift"),
        ("scheduler/scheduler_config.json", "algorithm_type"),
    ],
)
def test_no_value_of_any_setting_ends_in_another_error(own_folder: Path, file: str, key: str) -> None:
    whole = json.loads((own_folder / file).read_text())
    for value in ([], {}, None, -1, 10**400, math.nan):
        (own_folder / file).write_text(json.dumps({**whole, key: value}))
        with pytest.raises(CheckpointError):
            make_plan(own_folder, device="cpu")


def test_what_is_not_a_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model folder"):
        open_folder(tmp_path / "gone", families())
    with pytest.raises(ModelNotFoundError, match=r"no model_index\.json"):
        open_folder(tmp_path, families())
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(UnsafeFileError):
        open_folder(tmp_path, families())
    with pytest.raises(UnsafeFileError):
        open_folder(tmp_path / "model.ckpt", families())


def test_another_pipeline_is_refused(own_folder: Path) -> None:
    edit(own_folder / "model_index.json", _class_name="SanaPipelin")
    with pytest.raises(CheckpointError, match="did you mean 'SanaPipeline'"):
        open_folder(own_folder, families())
