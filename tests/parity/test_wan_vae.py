"""The Wan autoencoders against diffusers, and their whole form against the one that goes frame after frame."""

from __future__ import annotations

from weakref import WeakSet

import pytest
import torch
from torch import Tensor

from frolic.errors import CheckpointError
from frolic.models.wan_vae import (
    WanVAE,
    WanVAEConfig,
    decode_tiled,
    diffusers_keys,
    encode_tiled,
    original_keys,
    tile_for,
)
from frolic.models.wan_vae.layers import Memory
from frolic.models.wan_vae.sizes import kept_bytes
from tiny_wan import vae_config

diffusers = pytest.importorskip("diffusers")
KINDS = ["2.1", "2.2"]
FULL = {
    "2.1": WanVAEConfig(),
    "2.2": WanVAEConfig(
        width=160, decoder_width=256, latent_channels=48, in_time=(False, True, True), mean=(0.0,) * 48,
        deviation=(1.0,) * 48, shortcuts=True, patch=2,
    ),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ours(kind: str, seed: int = 0) -> WanVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WanVAE(vae_config(kind)).eval()


def clip(frames: int, batch: int = 1, height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def latents(vae: WanVAE, count: int, rows: int = 3, columns: int = 4) -> Tensor:
    shape = (1, vae.config.latent_channels, count, rows, columns)
    return torch.randn(shape, generator=torch.Generator().manual_seed(count))


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_diffusers_numbers(kind: str, frames: int) -> None:
    vae = ours(kind)
    settings = {name: value for name, value in vae.config.to_json().items() if not name.startswith("_")}
    theirs = diffusers.AutoencoderKLWan(**settings).eval()
    theirs.load_state_dict(diffusers_keys(vae.config).save(vae.state_dict()), strict=True)
    assert WanVAEConfig.from_json(dict(theirs.config)) == vae.config
    x = clip(frames, batch=2)
    expected = theirs.encode(x).latent_dist.mode()
    got = vae.encode(x)
    assert got.shape == expected.shape and (got - expected).abs().max() < 1e-5
    assert (vae.encode_chunked(x) - expected).abs().max() < 1e-5
    z = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    back = theirs.decode(z).sample
    assert (vae.decode(z).clamp(-1, 1) - back).abs().max() < 1e-4
    assert (torch.cat([*vae.stream_decode(z)], 2).clamp(-1, 1) - back).abs().max() < 1e-4
    assert back.shape[2] == frames == vae.frames(z.shape[2])


def test_full_size_names_and_shapes(kind: str) -> None:
    config = FULL[kind]
    settings = {name: value for name, value in config.to_json().items() if not name.startswith("_")}
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKLWan(**settings).state_dict()
        state = WanVAE(config).state_dict()
    for keymap in (diffusers_keys(config), original_keys(config)):
        saved = keymap.save(state)
        assert all(keymap.knows(name) for name in saved), "every name is written down"
        back = keymap.load(saved)
        assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in state.items()}
    saved = diffusers_keys(config).save(state)
    assert {key: value.shape for key, value in saved.items()} == {key: value.shape for key, value in theirs.items()}


def test_the_authors_names_are_those_that_diffusers_converts() -> None:
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    config = FULL["2.1"]
    with torch.device("meta"):
        state = WanVAE(config).state_dict()
    converted = convert_wan_vae_to_diffusers(dict(original_keys(config).save(state)))
    expected = diffusers_keys(config).save(state)
    assert {key: value.shape for key, value in converted.items()} == {k: v.shape for k, v in expected.items()}
    deep = original_keys(FULL["2.2"])
    assert deep.theirs("decoder.up_blocks.1.upsampler.time_conv.weight") == [
        "decoder.upsamples.1.upsamples.3.time_conv.weight"
    ]
    assert deep.theirs("encoder.down_blocks.2.resnets.0.conv_shortcut.bias") == [
        "encoder.downsamples.2.downsamples.0.shortcut.bias"
    ]


@torch.no_grad()
def test_the_first_latents_are_the_first_frames_and_a_window_is_a_part(kind: str) -> None:
    vae = ours(kind)
    z = latents(vae, 5)
    whole = vae.decode(z)
    assert (vae.decode(z[:, :, :2]) - whole[:, :, :5]).abs().max() < 1e-5
    assert (vae.decode_window(z, 2, 4) - whole[:, :, 5:13]).abs().max() < 1e-5
    assert (vae.decode_window(z, 0, 1) - whole[:, :, :1]).abs().max() < 1e-5


def test_a_window_gives_its_own_latents_their_gradient(kind: str) -> None:
    vae = ours(kind)
    z = latents(vae, 4).requires_grad_()
    vae.decode_window(z, 2, 3).square().mean().backward()
    whole = latents(vae, 4).requires_grad_()
    vae.decode(whole)[:, :, 5:9].square().mean().backward()
    assert z.grad is not None and whole.grad is not None
    assert not z.grad[:, :, :2].any() and not z.grad[:, :, 3:].any()
    assert (z.grad[:, :, 2] - whole.grad[:, :, 2]).abs().max() < 1e-6


@pytest.mark.parametrize("window", [False, True])
def test_recomputing_spares_memory_and_changes_no_gradient(kind: str, window: bool) -> None:
    """Whole clips, and a later window, whose frames look back at kept ones."""

    def run(recompute: bool) -> tuple[int, list[Tensor]]:
        vae = ours(kind)
        vae.recompute = recompute
        kept = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            if window:
                loss = vae.decode_window(latents(vae, 4).requires_grad_(), 1, 4).square().mean()
            else:
                loss = (vae(clip(5)) - clip(5)).square().mean()
        loss.backward()
        return kept, [parameter.grad for parameter in vae.parameters() if parameter.grad is not None]

    whole, spared = run(False), run(True)
    assert spared[0] < 0.5 * whole[0]
    assert len(whole[1]) == len(spared[1]) > 20
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(whole[1], spared[1], strict=True))


@torch.no_grad()
def test_streaming_keeps_no_more_with_more_frames(kind: str) -> None:
    """What is kept between two frames, in numbers of values."""
    from frolic.models.wan_vae.layers import Memory

    vae = ours(kind)

    def kept(count: int) -> int:
        memory = Memory(keeping=True)
        for part in latents(vae, count).split(1, dim=2):
            vae.decoder(vae.post_quant_conv(part), memory)
            memory.first = False
        return sum(tensor.untyped_storage().nbytes() for tensor in memory._kept.values())

    assert kept(3) == kept(9) > 0


@torch.no_grad()
def test_what_is_kept_between_frames_is_counted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And in tiles it is that of one tile at a time."""
    alive: WeakSet[Memory] = WeakSet()
    held = []

    class Watched(Memory):
        def __init__(self, keeping: bool = False) -> None:
            super().__init__(keeping)
            alive.add(self)

    monkeypatch.setattr("frolic.models.wan_vae.model.Memory", Watched)
    vae = ours(kind)
    vae.decoder.register_forward_hook(
        lambda *_: held.append(sum(kept.nbytes for memory in alive for kept in memory._kept.values()))
    )
    stride, z = vae.config.stride, latents(vae, 4, 8, 12)
    for _ in vae.stream_decode(z):
        pass
    assert held[-1] == max(held) == kept_bytes(vae.config, 8 * stride, 12 * stride, 4)
    del held[:]
    decode_tiled(vae, z, tile=4 * stride)
    assert len(held) > 4 * 6 and max(held) == kept_bytes(vae.config, 4 * stride, 4 * stride, 4)


@torch.no_grad()
def test_tiles(kind: str) -> None:
    vae = ours(kind)
    stride = vae.config.stride
    z = latents(vae, 2, 8, 12)
    whole = vae.decode(z)
    assert torch.equal(decode_tiled(vae, z, tile=12 * stride), torch.cat([*vae.stream_decode(z)], 2))

    def error(overlap: float) -> Tensor:
        tiled = decode_tiled(vae, z, tile=4 * stride, overlap=overlap)
        assert tiled.shape == whole.shape
        return (tiled - whole).abs().mean()

    # The middle attends to a whole frame, so this is near and not equal; tiles that only meet are far worse.
    assert 0 < error(0.5) < 0.8 * error(0.0)
    x = clip(5, height=8 * stride, width=6 * stride)
    near = encode_tiled(vae, x, tile=5 * stride, overlap=0.5)
    exact = vae.encode(x)
    assert near.shape == exact.shape and (near - exact).abs().mean() < 0.2 * exact.std()


def test_when_frames_are_tiled() -> None:
    config = FULL["2.1"]
    assert tile_for(config, 480, 832, 4, 64 * 2**30) is None
    small = tile_for(config, 480, 832, 4, 2 * 2**30)
    assert small is not None and small < 832
    assert tile_for(config, 480, 832, 4, 2**20) == 64
    assert tile_for(config, 480, 832, 4, 2**20, "off") is None
    assert tile_for(config, 480, 832, 4, 2**40, "on") == 256


def test_scales_are_inverse(kind: str) -> None:
    vae = ours(kind)
    z = latents(vae, 2)
    assert (vae.unscaled(vae.scaled(z)) - z).abs().max() < 1e-6
    assert (vae.scaled(z)[:, 0] - (z[:, 0] - vae.config.mean[0]) / vae.config.deviation[0]).abs().max() < 1e-6


def test_settings_that_cannot_be_honoured_are_all_said() -> None:
    raw = {**FULL["2.1"].to_json(), "attn_scales": [1.0], "patch_size": 2, "colour": "red", "z_dim": 8}
    with pytest.raises(CheckpointError) as error:
        WanVAEConfig.from_json(raw)
    assert "attn_scales" in str(error.value) and "colour" in str(error.value)
    with pytest.raises(CheckpointError, match="latents_mean has 16 entries for 8"):
        WanVAEConfig.from_json({"z_dim": 8})
    with pytest.raises(CheckpointError, match="in_channels is 3, which the other entries make 12"):
        WanVAEConfig.from_json({"patch_size": 2, "in_channels": 3})
    # The last stage resamples nothing, so that its shortcut has as many channels at both ends.
    small = {"is_residual": True, "base_dim": 8, "temperal_downsample": [True, True]}
    with pytest.raises(CheckpointError, match="shortcuts cannot join: 16 to 32 in the encoder"):
        WanVAEConfig.from_json({**small, "dim_mult": [1, 2, 4]})
    assert WanVAEConfig.from_json({**small, "dim_mult": [1, 2, 2]}).stride == 4
