"""Clips out of latents and back, in the memory that there is."""

from __future__ import annotations

import pytest
import torch

from frolic.errors import ResourceError
from frolic.models.wan_vae import WanVAE
from frolic.pipeline import clips
from frolic.pipeline.clips import ClipStage
from tiny_wan import vae_config

LATENTS = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
PIXELS = torch.randn(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    with torch.no_grad():
        yield WanVAE(vae_config()).eval()


def stage(vae, device="cpu", dtype=torch.float32, **options):
    return ClipStage(vae, device=torch.device(device), dtype=dtype, **options)


def short_of_memory(vae, monkeypatch, enough):
    """Both directions run out of memory unless ``enough(tile)``; the list says which tiles were tried."""
    tried = []
    whole = {"stream_decode": vae.stream_decode, "encode_chunked": vae.encode_chunked}
    tiled = {"decode_tiled": clips.decode_tiled, "encode_tiled": clips.encode_tiled}

    def limited(tile, work):
        tried.append(tile)
        if not enough(tile):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        with monkeypatch.context() as plain:
            for name, real in whole.items():  # tiles are gone through with these, too
                plain.setattr(vae, name, real)
            return work()

    def decode_whole(z):
        return limited(None, lambda: list(whole["stream_decode"](z)))

    def encode_whole(x):
        return limited(None, lambda: whole["encode_chunked"](x))

    def decode_tiles(v, z, *, tile):
        return limited(tile, lambda: tiled["decode_tiled"](v, z, tile=tile))

    def encode_tiles(v, x, *, tile):
        return limited(tile, lambda: tiled["encode_tiled"](v, x, tile=tile))

    monkeypatch.setattr(vae, "stream_decode", decode_whole)
    monkeypatch.setattr(vae, "encode_chunked", encode_whole)
    monkeypatch.setattr(clips, "decode_tiled", decode_tiles)
    monkeypatch.setattr(clips, "encode_tiled", encode_tiles)
    return tried


def decoding(made, notes):
    return made.decode(LATENTS, notes=notes)


def encoding(made, notes):
    return made.encode(PIXELS, notes=notes)


@pytest.mark.parametrize("direction", [decoding, encoding])
def test_the_way_down(vae, monkeypatch, direction):
    """Tiles that are larger than the frame give what the whole frame does."""
    expected = direction(stage(vae), [])
    tried = short_of_memory(vae, monkeypatch, lambda tile: tile == 64)
    notes = []
    assert torch.allclose(direction(stage(vae), notes), expected, atol=1e-5)
    assert tried == [None, 256, 128, 64]
    assert [note.split("of ")[-1] for note in notes] == ["256 pixels.", "128 pixels.", "64 pixels."]
    assert notes[0].lower().startswith(direction.__name__)


def test_with_little_memory_it_begins_with_small_tiles(vae, monkeypatch):
    monkeypatch.setattr(clips, "free_bytes", lambda device: 0)
    tried = short_of_memory(vae, monkeypatch, lambda tile: True)
    notes = []
    decoding(stage(vae), notes)
    assert tried == [64]
    assert not notes


def test_the_last_way_out_is_the_cpu(vae, monkeypatch):
    """``meta`` stands for a device whose memory is full."""
    monkeypatch.setattr(clips, "free_bytes", lambda device: 2**40)
    tried = short_of_memory(vae, monkeypatch, lambda tile: len(tried) > 4)
    moved = []
    monkeypatch.setattr(vae, "to", lambda *where: moved.append(where))
    notes = []
    assert torch.isfinite(decoding(stage(vae, "meta", torch.bfloat16), notes)).all()
    assert tried == [None, 256, 128, 64, 64]
    assert [(torch.device(where), dtype) for where, dtype in moved] == [
        (torch.device("cpu"), torch.float32),
        (torch.device("meta"), torch.bfloat16),
    ]
    assert "on the CPU" in notes[-1]


def test_latents_are_kept_when_nothing_helps(vae, monkeypatch, tmp_path):
    tried = short_of_memory(vae, monkeypatch, lambda tile: False)
    kept = []

    def keep(latents):
        kept.append(latents)
        return tmp_path / "kept.safetensors"

    with pytest.raises(ResourceError, match=r"32x32.*kept\.safetensors"):
        stage(vae).decode(LATENTS, notes=[], keep=keep)
    assert torch.equal(kept[0], LATENTS)
    assert tried == [None, 256, 128, 64]
    with pytest.raises(ResourceError, match="close other programs"):
        decoding(stage(vae), [])
    with pytest.raises(ResourceError, match="use a smaller one"):
        encoding(stage(vae), [])


def test_other_errors_are_not_taken_for_memory(vae, monkeypatch):
    monkeypatch.setattr(vae, "stream_decode", lambda z: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        decoding(stage(vae), [])


def test_latents_of_a_frame_come_nearer_to_it(vae):
    frame = stage(vae).decode(LATENTS[:, :, :1], notes=[])  # one that the decoder can give
    with torch.inference_mode():
        plain = stage(vae).encode(frame, notes=[])
        refined = stage(vae, refine=8).encode(frame, notes=[])
        again = stage(vae, refine=8).encode(frame, notes=[])
        far, near = ((stage(vae).decode(z, notes=[]) - frame).square().mean() for z in (plain, refined))
    assert near < 0.8 * far
    assert 0 < (refined - plain).abs().max() < 8 * 0.06, "a step of Adam is about its rate"
    assert torch.equal(again, refined)
    assert not refined.requires_grad and all(p.grad is None for p in vae.parameters())


def test_only_a_single_frame_is_refined(vae):
    assert torch.equal(stage(vae, refine=8).encode(PIXELS, notes=[]), stage(vae).encode(PIXELS, notes=[]))


def test_without_memory_for_gradients_a_frame_is_as_it_was_encoded(vae, monkeypatch):
    frame = PIXELS[:, :, :1]
    plain = stage(vae).encode(frame, notes=[])

    def short(z):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(vae, "decode", short)
    assert torch.equal(stage(vae, refine=8).encode(frame, notes=[]), plain)
