"""From latents to a picture, also where memory runs out."""

from __future__ import annotations

import pytest
import torch

from frolic.accel import memory
from frolic.errors import NumericsError, ResourceError
from frolic.models.dcae import DCAE, DCAEConfig
from frolic.models.dcae.config import RES, VIT, Stage
from frolic.pipeline import decode
from frolic.pipeline.decode import DecodeStage

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
