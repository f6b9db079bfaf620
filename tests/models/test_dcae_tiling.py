"""Strips of rows give the picture that the whole gives, in a small part of the memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from frolic.models.dcae import DCAE, DCAEConfig
from frolic.models.dcae.model import Up
from frolic.models.dcae.sizes import SPARE, TILES, costs, decode_bytes, decode_flops, encode_bytes, largest, tile_for
from frolic.models.dcae.tiling import decode_tiled, encode_tiled
from live import peak_bytes

STAGES = ["ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock"]
SMALL = {
    "latent_channels": 8, "attention_head_dim": 8,
    **{f"{side}_block_types": STAGES for side in ("encoder", "decoder")},
    **{f"{side}_block_out_channels": [8, 16, 32, 32] for side in ("encoder", "decoder")},
    **{f"{side}_layers_per_block": [1, 2, 1, 2] for side in ("encoder", "decoder")},
    **{f"{side}_qkv_multiscales": [[], [], [5], [3, 5]] for side in ("encoder", "decoder")},
    "upsample_block_type": "interpolate", "downsample_block_type": "Conv",
}  # fmt: skip
SANA_STAGES = SMALL | {
    "latent_channels": 8, "attention_head_dim": 16,
    **{f"{side}_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3 for side in ("encoder", "decoder")},
    **{f"{side}_block_out_channels": [8, 16, 32, 32, 64, 64] for side in ("encoder", "decoder")},
    **{f"{side}_layers_per_block": [1, 1, 1, 1, 1, 1] for side in ("encoder", "decoder")},
    **{f"{side}_qkv_multiscales": [[], [], [], [5], [5], [5]] for side in ("encoder", "decoder")},
}  # fmt: skip
CHANGES = {
    "interpolate": {},
    "shuffle": {"upsample_block_type": "pixel_shuffle", "downsample_block_type": "pixel_unshuffle"},
    "half": {"encoder_layers_per_block": [0, 2, 1, 1], "decoder_layers_per_block": [0, 1, 1, 1]},
    "plain": {"encoder_out_shortcut": False, "decoder_in_shortcut": False, "decoder_conv_act_fn": "silu"},
}


def model(raw: dict, dtype: torch.dtype = torch.float32) -> DCAE:
    vae = DCAE(DCAEConfig.from_json(raw))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in vae.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise * 0.7 * p[0].numel() ** -0.5 if p.ndim > 1 else 0.3 * noise + ("weight" in name))
    return vae.to(dtype).to(memory_format=torch.channels_last)


def psnr(got: Tensor, expected: Tensor) -> float:
    span = (expected.max() - expected.min()).item()
    return 10 * math.log10(span**2 / max((got.float() - expected.float()).square().mean().item(), 1e-30))


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [(5, 3), (7, 8), (1, 1), (2, 9)])
def test_strips_are_exact(size, change):
    vae = model(SMALL | CHANGES[change])
    z = torch.randn(1, 8, *size)
    x = torch.randn(1, 3, size[0] * 8, size[1] * 8)
    decoded, encoded = vae.decode(z), vae.encode(x)
    for tile in (1, 8, 24, 1000):
        got = decode_tiled(vae, z, tile=tile)
        # Row by row: an error at a seam must not hide in the mean.
        assert min(psnr(a, b) for a, b in zip(got.unbind(2), decoded.unbind(2), strict=True)) > 100
        got = encode_tiled(vae, x, tile=tile)
        assert got.shape == encoded.shape
        assert psnr(got, encoded) > 100


def test_a_batch_and_its_input_stay_apart():
    vae = model(SMALL)
    z = torch.randn(2, 8, 6, 4)
    given = z.clone()
    got = decode_tiled(vae, z, tile=8)
    assert torch.equal(z, given)
    assert psnr(got, vae.decode(z)) > 100
    assert psnr(got[1:], vae.decode(z[1:])) > 100


def test_half_precision_is_as_good_in_strips():
    exact = model(SMALL)
    vae = model(SMALL, torch.bfloat16)
    z = torch.randn(1, 8, 7, 6).bfloat16()
    expected = exact.decode(z.float())
    whole = psnr(vae.decode(z), expected)
    assert psnr(decode_tiled(vae, z, tile=8), expected) > whole - 1


def test_merged_weights_follow_the_weights():
    vae = model(SMALL)
    z = torch.randn(1, 8, 4, 4)
    vae.decode(z)
    for p in vae.decoder.parameters():
        p.mul_(1.1)
    got = vae.decode(z)
    with torch.enable_grad():
        expected = vae.decode(z).detach()  # what training computes merges nothing
    assert psnr(got, expected) > 100


def test_merged_weights_leave_with_the_weights():
    vae = model(SMALL)
    ups = [module for module in vae.decoder.modules() if isinstance(module, Up)]
    decode_merged = [lambda: vae.decode(torch.randn(1, 8, 4, 4)), lambda: [up._merged is not None for up in ups]]

    def merged():
        decode_merged[0]()
        return all(decode_merged[1]())

    assert ups
    assert merged()
    vae.decoder.to(torch.float64)
    assert not any(decode_merged[1]())
    vae.decoder.to(torch.float32)
    assert merged()
    with torch.enable_grad():
        vae.decode(torch.randn(1, 8, 4, 4))  # training changes them
    assert not any(decode_merged[1]())
    assert merged()
    for up in ups:
        up.conv.weight = torch.nn.Parameter(up.conv.weight.to("meta"))
        up.layer()
    assert not any(decode_merged[1]())


def test_memory_of_strips():
    """Under a quarter of the whole, at the stages of SANA's; and what is planned is what is used."""
    vae = model(SANA_STAGES)
    config = vae.config
    z, x = torch.randn(1, 8, 24, 16), torch.randn(1, 3, 768, 512)
    vae.decode(z)  # keeps the merged weights from here on
    whole = peak_bytes(lambda: vae.decode(z))
    tile = tile_for(config, 768, 512, 4, free=whole // 4)
    assert tile is not None
    used = peak_bytes(lambda: decode_tiled(vae, z, tile=tile))
    assert used < whole / 4
    assert peak_bytes(lambda: encode_tiled(vae, x, tile=tile)) < peak_bytes(lambda: vae.encode(x)) / 4
    assert whole / 1.35 < decode_bytes(config, 768, 512, 4, None) < 1.35 * whole
    for tile in (32, 128):
        used = peak_bytes(lambda tile=tile: decode_tiled(vae, z, tile=tile))
        assert used / 1.1 < decode_bytes(config, 768, 512, 4, tile) < 1.5 * used
        used = peak_bytes(lambda tile=tile: encode_tiled(vae, x, tile=tile))
        assert used / 1.2 < encode_bytes(config, 768, 512, 4, tile) < 1.6 * used


def test_the_tile_fits_the_budget():
    config = DCAEConfig()
    whole = decode_bytes(config, 2048, 2048, 2, None, "cuda")
    assert tile_for(config, 2048, 2048, 2, int(whole / SPARE) + 8, "cuda") is None
    assert tile_for(config, 2048, 2048, 2, whole, "cuda") is not None, "a part of the memory is left alone"
    tiles = [tile_for(config, 2048, 2048, 2, free, "cuda") for free in (whole // 2, whole // 4, whole // 8)]
    assert tiles == sorted(tiles, reverse=True)
    for tile, free in zip(tiles, (whole // 2, whole // 4, whole // 8), strict=True):
        assert decode_bytes(config, 2048, 2048, 2, tile, "cuda") <= SPARE * free
    assert tile_for(config, 2048, 2048, 2, 0, "cuda") == TILES[0]
    assert tile_for(config, 64, 64, 4, whole) is None  # small pictures stay whole


@pytest.mark.parametrize("tiling", ["auto", "on", "off"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("free", [10**9, 10**12])
def test_a_dry_run_decides_as_decoding_does(tiling, device, free):
    for config in (DCAEConfig(), DCAEConfig(up="interpolate")):
        for side in (64, 1024, 4096):
            tile = tile_for(config, side, side, 2, free, device, tiling)
            expected = decode_bytes(config, side, side, 2, tile, device), tile is not None
            assert config.decode_bytes(side // 32, side // 32, 2, free, device, tiling) == expected


@pytest.mark.parametrize("free", [0, 10**9, 10**13])
def test_tiling_means_what_it_says(free):
    config = DCAEConfig()
    for device in ("cpu", "cuda"):
        for side in (32, 512, 2048):
            assert tile_for(config, side, side, 2, free, device, "off") is None
            tile = tile_for(config, side, side, 2, free, device, "on")
            assert tile is not None
            assert tile < side
            auto = tile_for(config, side, side, 2, free, device)
            assert auto in (None, tile)


def test_off_the_cpu_no_tensor_is_larger_than_kernels_count():
    """256 channels of 4096 x 4096 are 2^32 numbers, of which CUDA's upsampling leaves the last ones zero."""
    config = DCAEConfig(up="interpolate", down="Conv")
    plenty = 10**15
    for tiling in ("auto", "off", "on"):
        for side in ("decoder", "encoder"):
            for size in ((4096, 4096), (8192, 8192), (2048, 32768)):
                tile = tile_for(config, *size, 2, plenty, "cuda", tiling, side)
                assert tile is not None
                assert 256 * (tile + 8) * size[1] < 2**31
    assert tile_for(config, 2048, 2048, 2, plenty, "cuda") is None
    assert tile_for(config, 4096, 2048, 2, plenty, "cuda") == 1024, "256 channels of it are 2^31 numbers, one too many"
    assert tile_for(config, 4064, 2048, 2, plenty, "cuda") is None
    assert tile_for(DCAEConfig(), 4096, 2048, 2, plenty, "cuda") is None, "here it is 128 channels at most"
    assert tile_for(config, 4096, 4096, 2, plenty, "cpu", "off") is None
    assert config.decode_bytes(128, 128, 2, plenty, "cuda")[1]


class Largest(TorchDispatchMode):
    """The most numbers of any tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.mark.parametrize(
    "raw",
    [
        SANA_STAGES,
        SANA_STAGES | CHANGES["shuffle"],
        SMALL | CHANGES["half"],
        SMALL | CHANGES["half"] | CHANGES["shuffle"],
    ],
)
def test_the_largest_tensor_is_known(raw):
    with torch.inference_mode():  # as off the CPU: no weights are merged
        vae = model(raw)
        stride, channels = vae.config.stride, vae.config.latent_channels
        height, width = 16 * stride, 2 * stride
        pixels, latents = torch.randn(1, 3, height, width), torch.randn(1, channels, 16, 2)
        for side, work, strips, x in (
            ("decoder", vae.decode, decode_tiled, latents),
            ("encoder", vae.encode, encode_tiled, pixels),
        ):
            with Largest() as whole:
                work(x)
            assert largest(vae.config, side, height, width, None) == whole.numbers
            for tile in (8, 64):
                with Largest() as seen:
                    strips(vae, x, tile=tile)
                planned = largest(vae.config, side, height, width, tile)
                assert seen.numbers <= planned <= whole.numbers


def test_every_layer_has_a_cost():
    for change in CHANGES.values():
        vae = DCAE(DCAEConfig.from_json(SMALL | change))
        for side, module in (("encoder", vae.encoder), ("decoder", vae.decoder)):
            prices = costs(vae.config, side)
            assert len(prices) == len(module.layers())
            assert prices[-1].outside == (8 if side == "encoder" else 1)


def test_the_operations_of_the_published_decoder():
    assert decode_flops(DCAEConfig(up="interpolate"), 1024, 1024) == pytest.approx(8.369e12, rel=0.02)
