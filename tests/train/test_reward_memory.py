"""What a reward run would take of memory, worked out beforehand."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frolic.config import load_recipe
from frolic.io.files import write_json
from frolic.lora.layer import linears
from frolic.lora.trained import Factors, Learning
from frolic.models.registry import families
from frolic.models.sana import SanaConfig, SanaTransformer
from frolic.models.text import UMT5Config
from frolic.models.wan import WanConfig, WanTransformer
from frolic.models.wan.spec import WAN
from frolic.models.wan_vae import WanVAEConfig
from frolic.train.jobs import built_in
from frolic.train.memory_plan import MemoryPlan, Moment, kept_bytes
from frolic.train.tasks import reward_memory as planning
from frolic.train.tasks.reward_memory import reward_memory
from tiny_wan import write_tiny_wan


def kept(net: nn.Module, x: Tensor, text: Tensor, half: bool) -> int:
    """What a forward with adapters on all linears of the blocks keeps."""
    shapes = {name: shape for name, shape in linears(net).items() if name.startswith("blocks.")}
    Learning(net.requires_grad_(False), Factors(shapes, 2, 2.0, torch.Generator()))
    mask = torch.ones(text.shape[:2], dtype=torch.bool)
    dtype = torch.bfloat16 if half else torch.float32
    with torch.autocast("cpu", dtype, enabled=half):
        return kept_bytes(lambda: net.to(dtype)(x.to(dtype), torch.zeros(len(x)), text.to(dtype), mask))


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(("width", "hidden"), [(64, 160), (128, 128), (96, 384)])
def test_what_a_block_of_wan_keeps(width: int, hidden: int, half: bool) -> None:
    config = WanConfig(
        heads=width // 32, head_dim=32, in_channels=4, out_channels=4, text_dim=16, freq_dim=32, hidden=hidden
    )
    found = []
    for layers in (2, 4):
        net = WanTransformer(replace(config, layers=layers))
        found.append(kept(net, torch.randn(2, 4, 3, 16, 16), torch.randn(2, 6, 16), half))
    counted = (found[1] - found[0]) / 2 / 2  # a block, a sample
    assert 0.8 < config.graph_bytes(3 * 8 * 8, 2 if half else 4) / counted < 1.25


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(("width", "ratio"), [(64, 2.5), (128, 1.0), (96, 4.0)])
def test_what_a_block_of_sana_keeps(width: int, ratio: float, half: bool) -> None:
    config = SanaConfig(
        in_channels=4, out_channels=4, heads=width // 32, head_dim=32, cross_heads=width // 32, cross_head_dim=32,
        caption_channels=16, mlp_ratio=ratio, sample_size=16,
    )  # fmt: skip
    found = []
    for layers in (2, 4):
        net = SanaTransformer(replace(config, layers=layers))
        found.append(kept(net, torch.randn(2, 4, 16, 16), torch.randn(2, 6, 16), half))
    counted = (found[1] - found[0]) / 2 / 2
    assert 0.8 < config.graph_bytes(256, 2 if half else 4) / counted < 1.25


def write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, size: int) -> None:
    """A safetensors file with all of its header and none of its numbers, which take no room on a disk."""
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + size * int(torch.Size(shape).numel())
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)


@pytest.fixture(scope="module")
def a14b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wan2.2 A14B as published, without its numbers."""
    folder = write_tiny_wan(tmp_path_factory.mktemp("full") / "wan", "t2v-two")
    (known,) = [entry for entry in families()["wan"].published if entry.name == "wan2.2-t2v-a14b"]
    vocabulary = json.loads((folder / "text_encoder" / "config.json").read_text())["vocab_size"]
    configs: dict[str, Any] = {
        "transformer": known.config,
        "transformer_2": known.config,
        "vae": WanVAEConfig(),
        "text_encoder": replace(UMT5Config(), vocabulary=max(vocabulary, UMT5Config().vocabulary)),
    }
    parts = {**WAN.components, **WAN.optional}
    for name, config in configs.items():
        write_json(folder / name / "config.json", config.to_json(), force=True)
        with torch.device("meta"):
            state = parts[name].keymap(config).save(parts[name].build(config).state_dict())
        (file,) = (folder / name).glob("*.safetensors")
        dtype, size = ("F32", 4) if name == "vae" else ("BF16", 2)
        write_sparse(file, {key: tuple(tensor.shape) for key, tensor in state.items()}, dtype, size)
    (folder / "frolic.json").unlink()
    return folder


def plan(folder: Path, *more: str) -> MemoryPlan:
    settings = [f"vars.model={folder}", "vars.prompts=starter", "vars.weights=none", "vars.watched=none", *more]
    return reward_memory(load_recipe("wan/reward-a14b", settings, None, built_in()))


def test_the_recipe_of_a14b_fits_on_80_gb(a14b: Path) -> None:
    found = plan(a14b)
    moments = {moment.name: moment for moment in found.moments}
    assert 28e9 < moments["learning"].holds["transformer"] < 29e9
    assert 66e9 < moments["reading texts"].bytes < 70e9, "on a CPU all that there is: experts, umT5, the autoencoder"
    assert moments["learning"].bytes < 48e9, "which is the peak where parts come to a device of their own"
    assert 40e9 < found.peak.bytes < 80e9
    more = {name: plan(a14b, f"job.{name}").peak.bytes for name in ("recompute=false", "train=both")}
    learning = moments["learning"].bytes
    assert more["recompute=false"] > 2 * found.peak.bytes and more["train=both"] > learning + 28e9


def test_what_is_more_than_there_is_is_said() -> None:
    moments = (
        Moment("drawing", {"transformer": 10**9}),
        Moment("learning", {"transformer": 10**9, "graph": 3 * 10**9}),
    )
    fits, not_so = (MemoryPlan("cuda", moments, free) for free in (5 * 10**9, 10**9))
    assert fits.lines()[-1] == "memory of cuda: about 4.0 GB of 5.0 GB free, most while learning"
    assert not_so.lines()[-1].endswith("; that is more than there is") and not not_so.fits


def test_of_two_experts_one_is_kept_while_its_graph_may_need_it() -> None:
    """Weights that were moved away could not be gone back through."""
    from frolic.train.painter import ModelPainter

    there: set[str] = set()

    class Held:
        config = None

        def __init__(self, name: str) -> None:
            self.name = name

        def get(self) -> str:
            there.add(self.name)
            return self.name

        def release(self) -> None:
            there.discard(self.name)

    nets: Any = {name: Held(name) for name in ("transformer", "transformer_2")}
    sampler: Any = SimpleNamespace(renoises=False)
    painter = ModelPainter(nets, {}, (), [1, 1], sampler, None, torch.ones(2), (1,), None)  # type: ignore[arg-type]

    def use(name: str, learning: bool) -> list[str]:
        with nullcontext() if learning else torch.no_grad():
            painter._use(name)
        return sorted(there)

    high, low = nets
    assert [use(name, learning=False) for name in nets] == [[high], [low]], "a rollout has one at a time"
    assert use(high, learning=True) == [high], "what the rollout ended on has no graph and goes"
    assert use(low, learning=False) == [high, low], "its velocity is only compared with, but the other's graph stays"
    assert use(low, learning=True) == [high, low]
    painter.begin()
    assert use(low, learning=False) == [low], "after the update nothing is needed any longer"


def test_dry_run_shows_it_and_trains_nothing(command: Any, tmp_path: Path) -> None:
    shown = command("train", "starter/video-reward", "--dry-run", "trainer.device=cpu")
    assert (
        shown.code == 0 and "learning" in shown.out and shown.out.splitlines()[-1].startswith("memory of cpu: about ")
    )
    found = json.loads(command("train", "starter/video-reward", "--dry-run", "--json", "trainer.device=cpu").out)
    assert found["recipe"] == "starter/video-reward" and found["memory"]["fits"] is True
    assert found["memory"]["peak"] == max(sum(moment["holds"].values()) for moment in found["memory"]["moments"])
    other = command("train", "starter/image", "--dry-run")
    assert other.code == 0 and "not worked out" in other.out
    assert command("train", "starter/image", "--dry-run", "trainer.stepz=1").code == 2
    assert not list((tmp_path / "here").iterdir())


def test_dry_run_fetches_no_model(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, fetches = planning.make_plan, []

    def watched(*given: Any, **more: Any) -> Any:
        fetches.append(more["watch"].fetch)
        return plan(*given, **more)

    monkeypatch.setattr(planning, "make_plan", watched)
    assert command("train", "starter/reward", "--dry-run", "trainer.device=cpu").code == 0
    assert fetches == [False]
