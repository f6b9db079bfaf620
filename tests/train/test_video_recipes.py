"""The video starter's recipes, end to end at a tiny size: cut-outs in, a folder that draws clips out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import frolic
from frolic.config import load_recipe
from frolic.errors import CheckpointError, ConfigError, ModelNotFoundError
from frolic.io.safetensors import load
from frolic.models.wan_vae import WanVAE
from frolic.train.jobs import built_in
from frolic.train.objectives.experts import ExpertsFlow
from frolic.train.objectives.flow import Flow, FlowSettings
from frolic.train.tasks.inflate import forget_time
from frolic.train.trainer import Trainer
from small_pack import write_small_pack
from tiny import write_tiny_folder
from tiny_wan import vae_config

AUTOENCODER = [
    "model.config.base_dim=4", "model.config.decoder_base_dim=4", "model.config.z_dim=4", "vars.zeros=[0, 0, 0, 0]",
    "vars.ones=[1, 1, 1, 1]", "data.side=32", "data.frames=5", "data.previews=2",
]  # fmt: skip
VIDEO = [
    "model.config.in_channels=4", "model.config.out_channels=4", "model.config.num_attention_heads=2",
    "model.config.attention_head_dim=12", "model.config.num_layers=2", "model.config.ffn_dim=16",
    "model.config.text_dim=16", "data.clips=12", "data.side=32", "data.frames=5", "job.card.height=32",
    "job.card.width=32", "job.card.steps=4",
]  # fmt: skip


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    return write_small_pack(tmp_path / "pack")


def train(name: str, root: Path, pack: Path, *more: str) -> Path:
    jobs = built_in()
    common = [
        "data.animated=none",
        f"output.folder={root}",
        f"data.pack={pack}",
        "trainer.steps=2",
        "trainer.device=cpu",
    ]
    settings = AUTOENCODER if "coder" in name else VIDEO
    if not any(each.startswith("trainer.init_from") for each in more):
        common = [*common, "trainer.init_from=null"]
    recipe = load_recipe(name, [*settings, *common, *more], environment="ci", jobs=jobs)
    outcome = Trainer(recipe, jobs.build(recipe)).run()
    assert outcome.step == 2 and outcome.export is not None
    return outcome.export


def weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    return load(folder / part / "diffusion_pytorch_model.safetensors")


def test_from_cut_outs_to_a_model_of_two_experts(tmp_path: Path, pack: Path) -> None:
    autoencoder = train("starter/video-autoencoder", tmp_path / "autoencoder", pack)
    text = write_tiny_folder(tmp_path / "text")
    given = [f"vars.autoencoder={autoencoder}", f"vars.text={text}", f"data.cache={tmp_path / 'cache'}"]
    folder = train("starter/video", tmp_path / "video", pack, *given)
    pipe = frolic.load(folder)
    result = pipe("a cup spinning", seed=1)
    assert result.model.name == "starter-video" and result.request.frames == 5 and result.request.fps == 8
    assert result.videos[0].shape == (5, 32, 32, 3)
    assert pipe.defaults.boundary == 0.875

    # One expert at a time: the other one comes from the folder that is named, as it is.
    high = train("starter/video", tmp_path / "high", pack, *given, "job.train=high", f"job.other={folder}")
    assert all(
        torch.equal(value, weights(folder, "transformer_2")[key])
        for key, value in weights(high, "transformer_2").items()
    )
    low = train(
        "starter/video", tmp_path / "low", pack, *given, "job.train=low", f"job.other={high}",
        f"trainer.init_from={folder}",
    )  # fmt: skip
    assert all(
        torch.equal(value, weights(high, "transformer")[key]) for key, value in weights(low, "transformer").items()
    )
    assert any(
        not torch.equal(value, weights(folder, "transformer_2")[key])
        for key, value in weights(low, "transformer_2").items()
    )
    frolic.load(low)
    # What is drawn meanwhile is drawn by both, so a partner that is not there is missed at once.
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        train("starter/video", tmp_path / "wrong", pack, *given, "job.train=low", "job.other=nowhere")

    one = train("starter/video", tmp_path / "one", pack, *given, "job.boundary=null")
    assert not (one / "transformer_2").exists()
    assert frolic.load(one)("a cup", seed=1, frames=1).images[0].size == (32, 32)
    for wrong, said in (
        (["job.train=high"], "job.other"),
        ([f"job.other={folder}"], "leave it out"),
        (["job.train=high", "job.boundary=null"], "give job.boundary"),
        (["data.frames=6"], "cannot be encoded"),
    ):
        with pytest.raises(ConfigError, match=said):
            train("starter/video", tmp_path / "wrong", pack, *given, *wrong)


def test_each_stage_begins_where_the_one_before_ended(tmp_path: Path, pack: Path) -> None:
    """Pictures, clips, a better decoder of the same latents; pictures, clips, two experts, each from the last."""
    stills = train("starter/video-autoencoder-stills", tmp_path / "a", pack, "data.frames=1")
    clips = train("starter/video-autoencoder", tmp_path / "b", pack, f"trainer.init_from={stills}")
    better = train("starter/video-decoder", tmp_path / "c", pack, f"trainer.init_from={clips}", "job.store=bfloat16")
    before, after = weights(clips, "vae"), weights(better, "vae")
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved and all(key.startswith(("decoder.", "post_quant_conv.")) for key in moved), (
        "latents stay what they are"
    )
    given = [f"vars.autoencoder={better}", f"vars.text={write_tiny_folder(tmp_path / 'text')}"]
    given += [f"data.cache={tmp_path / 'cache'}", "job.store=bfloat16", "optimizer.lr=1e-9"]
    first = train("starter/video-stills", tmp_path / "d", pack, *given, "data.frames=1", "data.mix={still: 1}")
    one = train("starter/video-one", tmp_path / "e", pack, *given, f"trainer.init_from={first}")
    two = train("starter/video", tmp_path / "f", pack, *given, f"trainer.init_from={one}")
    for key, value in weights(one, "transformer").items():
        for part in ("transformer", "transformer_2"):
            torch.testing.assert_close(weights(two, part)[key], value, rtol=0.02, atol=1e-3)
    pipe = frolic.load(two)
    assert pipe.defaults.clean_first and pipe.defaults.boundary == 0.875
    image = Image.effect_noise((32, 32), 90).convert("RGB")
    begun = pipe("a cup spinning", seed=1, image=image).videos[0]
    assert begun.shape == (5, 32, 32, 3)


def test_a_model_goes_on_with_another_autoencoder(tmp_path: Path, pack: Path) -> None:
    texts = [f"vars.text={write_tiny_folder(tmp_path / 'text')}", f"data.cache={tmp_path / 'cache'}"]
    still = [*texts, "data.frames=1", "data.mix={still: 1}", "job.store=bfloat16", "optimizer.lr=1e-9"]
    before = train("starter/video-autoencoder", tmp_path / "a", pack)
    first = train("starter/video-stills", tmp_path / "b", pack, *still, f"vars.autoencoder={before}")
    zeros, ones = str([0] * 8), str([1] * 8)
    wider = ["model.config.z_dim=8", f"vars.zeros={zeros}", f"vars.ones={ones}"]
    after = train("starter/video-autoencoder", tmp_path / "c", pack, *wider)
    still += [f"vars.autoencoder={after}", f"trainer.init_from={first}", "job.ends=new"]
    still += ["model.config.in_channels=8", "model.config.out_channels=8"]
    second = train("starter/video-stills", tmp_path / "d", pack, *still)
    old, new = weights(first, "transformer"), weights(second, "transformer")
    assert {key for key in old if old[key].shape != new[key].shape} == {
        "patch_embedding.weight", "proj_out.weight", "proj_out.bias",
    }  # fmt: skip
    for key in old:
        if not key.startswith(("patch_embedding", "proj_out")):
            torch.testing.assert_close(old[key], new[key], rtol=0.02, atol=1e-3)
    with pytest.raises(CheckpointError, match="same shape between its ends: blocks"):
        train("starter/video-stills", tmp_path / "e", pack, *still, "model.config.num_layers=1")


def test_a_model_of_clips_starts_as_one_of_pictures() -> None:
    """Untrained, every frame of a still clip is what the same picture alone becomes, there and back: so what is learned
    of pictures holds for clips. (Wan2.2's shortcuts count the frames that come together, so there it is only near.)"""
    torch.manual_seed(0)
    vae = WanVAE(vae_config("2.1"))
    forget_time(vae)
    picture = torch.rand(1, 3, 1, 32, 32)
    alone, clip = vae.encode(picture), vae.encode(picture.expand(-1, -1, 9, -1, -1))
    torch.testing.assert_close(clip, alone.expand_as(clip), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(vae.decode(clip)[:, :, 4:5], vae.decode(alone), rtol=1e-3, atol=1e-4)


def test_weights_in_eight_bits(tmp_path: Path, pack: Path) -> None:
    big = ["model.config.attention_head_dim=96", "job.store=float8"]
    autoencoder = train("starter/video-autoencoder", tmp_path / "autoencoder", pack)
    text = write_tiny_folder(tmp_path / "text")
    given = [f"vars.autoencoder={autoencoder}", f"vars.text={text}", f"data.cache={tmp_path / 'cache'}"]
    folder = train("starter/video", tmp_path / "video", pack, *given, *big)
    kinds = {key: value.dtype for key, value in weights(folder, "transformer").items()}
    assert kinds["blocks.0.attn1.to_q.weight"] == torch.float8_e4m3fn
    assert kinds["blocks.0.attn1.to_q.bias"] == kinds["condition_embedder.time_proj.weight"] == torch.bfloat16
    pipe = frolic.load(folder)
    assert next(pipe.transformer.parameters()).dtype.itemsize >= 2
    assert pipe("a cup spinning", seed=1, frames=1).images[0].size == (32, 32)


def test_a_given_first_frame_has_no_time_and_no_loss() -> None:
    seen: dict[str, torch.Tensor] = {}

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, text: Any, mask: Any) -> torch.Tensor:
            seen.update(x=x, t=t)
            return torch.zeros_like(x)

    x0 = torch.randn(64, 2, 3, 4, 4)
    flow = Flow(Spy(), FlowSettings(first=0.5, dropout=0.0), torch.zeros(1, 1, 2), torch.ones(1, 1))
    batch = {"latents": x0, "text": torch.zeros(64, 1, 2), "mask": torch.ones(64, 1)}
    loss, _ = flow.loss(batch, torch.Generator().manual_seed(0))
    given = seen["t"][:, 0] == 0
    assert 16 < int(given.sum()) < 48
    assert torch.equal(seen["x"][given][:, :, 0], x0[given][:, :, 0])
    assert not torch.isclose(seen["x"][~given][:, :, 0], x0[~given][:, :, 0]).all()
    assert torch.equal(seen["t"][:, 1], seen["t"][:, 2]) and bool((seen["t"][:, 1] > 0).all())
    assert torch.equal(seen["t"][~given][:, 0], seen["t"][~given][:, 1])
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    error = (noise - x0).square()
    error[given, :, 0] = 0
    torch.testing.assert_close(loss, error.mean())


def test_each_expert_learns_from_its_own_noise_levels_only() -> None:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(torch.zeros(()))
            self.seen: list[float] = []

        def forward(self, x: torch.Tensor, t: torch.Tensor, text: Any, mask: Any) -> torch.Tensor:
            self.seen += t.tolist()
            return self.value.expand_as(x)

    high, low = Constant(), Constant()
    flow = ExpertsFlow(high, low, 0.875, FlowSettings(shift=5.0, dropout=0.0), torch.zeros(1, 1, 2), torch.ones(1, 1))
    batch = {"latents": torch.randn(64, 2, 3, 4, 4), "text": torch.zeros(64, 1, 2), "mask": torch.ones(64, 1)}
    loss, _ = flow.loss(batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert len(high.seen) + len(low.seen) == 64 and min(high.seen) >= 875 > max(low.seen)
    assert high.value.grad is not None and low.value.grad is not None
    assert set(flow.modules()) == {"transformer", "transformer_2"}
