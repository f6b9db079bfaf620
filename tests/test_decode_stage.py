"""From latents to a picture, also where memory runs out."""

from __future__ import annotations

import pytest
import torch

from frolic.accel import memory
from frolic.errors import NumericsError, ResourceError, is_out_of_memory
from frolic.models.dcae import DCAE, DCAEConfig, sizes
from frolic.models.dcae.config import RES, VIT, Stage
from frolic.pipeline import decode
from frolic.pipeline.decode import DecodeStage
from frolic.pipeline.finite import require_finite

STAGES = (Stage(RES, 8, 1), Stage(RES, 16, 1), Stage(VIT, 16, 1, (5,)))
CONFIG = DCAEConfig(latent_channels=4, head_dim=8, encoder=STAGES, decoder=STAGES, scaling_factor=0.5)
LATENTS = torch.randn(1, 4, 9, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return DCAE(CONFIG).requires_grad_(False)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def stage(vae, **options):
    return DecodeStage(vae, device=torch.device("cpu"), dtype=torch.float32, **options)


def short_of_memory(vae, monkeypatch, enough):
    """``vae`` in a machine where only ``enough(tile)`` works (``tile`` None: the whole). Returns the tiles tried."""
    tried = []

    def limited(tile, work):
        tried.append(tile)
        if not enough(tile):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return work()

    whole, strips = vae.decode, decode.decode_tiled
    monkeypatch.setattr(vae, "decode", lambda z: limited(None, lambda: whole(z)))
    monkeypatch.setattr(decode, "decode_tiled", lambda v, z, tile: limited(tile, lambda: strips(v, z, tile=tile)))
    return tried


def test_a_picture_of_latents(vae):
    notes: list[str] = []
    picture = stage(vae).decode(LATENTS, notes=notes)
    assert torch.allclose(picture, vae.decode(LATENTS / 0.5), atol=1e-6)
    assert picture.dtype == torch.float32
    assert not notes


def test_strips_on_demand_are_the_same_picture(vae, monkeypatch):
    whole = stage(vae, tiling="off").decode(LATENTS, notes=[])
    tried = short_of_memory(vae, monkeypatch, lambda tile: tile is not None)
    assert torch.allclose(stage(vae, tiling="on").decode(LATENTS, notes=[]), whole, atol=1e-5)
    assert tried
    assert None not in tried


def test_latents_of_a_picture_and_back(vae):
    pixels = torch.rand(1, 3, 36, 20) * 2 - 1
    latents = stage(vae).encode(pixels, notes=[])
    assert torch.allclose(latents, vae.encode(pixels) * 0.5, atol=1e-6)
    assert torch.allclose(stage(vae, tiling="on").encode(pixels, notes=[]), latents, atol=1e-5)


def test_little_memory_makes_strips_from_the_start(vae, monkeypatch):
    monkeypatch.setattr(decode, "free_bytes", lambda device: 0)
    tried = short_of_memory(vae, monkeypatch, lambda tile: True)
    stage(vae).decode(LATENTS, notes=[])
    assert tried == [8]


def test_the_way_down(vae, monkeypatch):
    expected = stage(vae).decode(LATENTS, notes=[])
    tried = short_of_memory(vae, monkeypatch, lambda tile: tile is not None and tile <= 8)
    notes: list[str] = []
    assert torch.allclose(stage(vae).decode(LATENTS, notes=notes), expected, atol=1e-5)
    assert tried == [None, 256, 64, 8]
    assert len(notes) == 3
    assert "8 rows" in notes[-1]


def test_the_last_way_out_is_the_cpu(vae, monkeypatch):
    """``meta`` stands for a device whose memory is full."""
    tried = short_of_memory(vae, monkeypatch, lambda tile: len(tried) > 4)
    moved = []
    monkeypatch.setattr(vae.decoder, "to", lambda *where: moved.append(where))
    elsewhere = DecodeStage(vae, device=torch.device("meta"), dtype=torch.bfloat16)
    monkeypatch.setattr(decode, "free_bytes", lambda device: 2**40)
    notes: list[str] = []
    picture = elsewhere.decode(LATENTS, notes=notes)
    assert torch.isfinite(picture).all()
    assert moved == [("cpu", torch.float32), (torch.device("meta"), torch.bfloat16)]
    assert "on the CPU" in notes[-1]


def test_latents_are_kept_when_nothing_helps(vae, monkeypatch, tmp_path):
    short_of_memory(vae, monkeypatch, lambda tile: False)
    kept = []

    def keep(latents):
        kept.append(latents)
        return tmp_path / "kept.safetensors"

    with pytest.raises(ResourceError, match=r"20x36.*kept\.safetensors"):
        stage(vae).decode(LATENTS, notes=[], keep=keep)
    assert torch.equal(kept[0], LATENTS)
    with pytest.raises(ResourceError, match="close other programs"):
        stage(vae).decode(LATENTS, notes=[])


def test_other_errors_are_not_taken_for_memory(vae, monkeypatch):
    monkeypatch.setattr(vae, "decode", lambda z: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stage(vae).decode(LATENTS, notes=[])


@pytest.mark.parametrize(("value", "said"), [(torch.nan, "not finite"), (0.0, "one flat colour")])
def test_pictures_that_are_none(vae, value, said):
    vae.decoder.conv_out.weight.fill_(value)
    with pytest.raises(NumericsError, match=said):
        stage(vae).decode(LATENTS, notes=[])


def test_one_pixel_is_enough_for_a_picture(vae, monkeypatch):
    pixels = torch.zeros(1, 3, 64, 64)
    pixels[0, 1, 3, 5] = 0.5  # between those that are looked at first
    monkeypatch.setattr(vae, "decode", lambda z: pixels)
    assert torch.equal(stage(vae).decode(LATENTS, notes=[]), pixels)


def test_numbers_whose_sum_is_too_large_are_finite():
    largest = torch.full((4,), torch.finfo(torch.float32).max)
    require_finite(largest, "A test")
    with pytest.raises(NumericsError, match="A test"):
        require_finite(torch.tensor([torch.inf, -torch.inf]), "A test")


def test_a_preview_is_the_picture(vae, monkeypatch):
    batch = torch.cat([LATENTS, -LATENTS])
    expected = torch.cat([stage(vae).decode(row, notes=[]) for row in batch.split(1)])
    assert torch.equal(stage(vae).preview(batch), expected)
    tried = short_of_memory(vae, monkeypatch, lambda tile: tile == 8)
    assert torch.allclose(stage(vae).preview(batch), expected, atol=1e-5)
    assert tried == 2 * [None, 256, 64, 8]


def test_a_preview_may_be_of_one_colour(vae):
    vae.decoder.conv_out.weight.zero_()
    picture = stage(vae).preview(LATENTS)
    assert torch.equal(picture.amin((2, 3)), picture.amax((2, 3)))
    vae.decoder.conv_out.weight.fill_(torch.nan)
    with pytest.raises(NumericsError, match="not finite"):
        stage(vae).preview(LATENTS)


def test_the_way_over_the_cpu_leaves_weights_that_can_be_trained(monkeypatch):
    with torch.inference_mode(False):
        vae = DCAE(CONFIG).requires_grad_(False).to(torch.bfloat16)
    tried = short_of_memory(vae, monkeypatch, lambda tile: len(tried) > 4)
    to, modes = vae.decoder.to, []

    def watched(*where):
        """``meta`` loses the weights, so they stay here."""
        modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        return to(*(place for place in where if not isinstance(place, torch.device)))

    monkeypatch.setattr(vae.decoder, "to", watched)
    monkeypatch.setattr(decode, "free_bytes", lambda device: 2**40)
    DecodeStage(vae, device=torch.device("meta"), dtype=torch.bfloat16).decode(LATENTS, notes=[])
    assert modes == 2 * [(False, False)]
    with torch.inference_mode(False):
        assert not any(weight.is_inference() for weight in vae.parameters())
        vae.requires_grad_()
        vae.decode(LATENTS.bfloat16().clone()).sum().backward()


def test_a_picture_too_large_to_address_is_made_in_strips_all_the_same(vae, monkeypatch):
    monkeypatch.setattr(sizes, "_ADDRESSED", 8 * 36 * 20)
    monkeypatch.setattr(decode, "free_bytes", lambda device: 2**40)
    made, picture = [], torch.rand(1, 3, 36, 20)
    monkeypatch.setattr(vae, "decode", lambda z: made.append(None) or picture)
    monkeypatch.setattr(decode, "decode_tiled", lambda v, z, tile: made.append(tile) or picture)
    notes: list[str] = []
    for tiling in ("off", "auto"):
        elsewhere = DecodeStage(vae, device=torch.device("meta"), dtype=torch.float32, tiling=tiling)
        elsewhere.decode(LATENTS, notes=notes)
    assert made
    assert None not in made
    assert notes == ["Decoding was done in pieces: meta cannot address so large a picture at once."]
    stage(vae, tiling="off").decode(LATENTS, notes=notes)
    assert made[-1] is None, "the CPU counts in 64 bits"
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("said", "memory_ran_out"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("upsample_nearest2d only supports output tensors with less than INT_MAX elements", False),
        ("integer out of range", False),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", False),
    ],
)
def test_what_says_that_memory_ran_out(said, memory_ran_out):
    assert is_out_of_memory(RuntimeError(said)) is memory_ran_out
    assert not is_out_of_memory(ValueError(said))


def test_free_memory_of_this_machine():
    assert 2**20 < memory.free_bytes("cpu") < 2**60


def test_a_container_allows_less(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_bytes("cpu") == 1500000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes("cpu") > 3000000
