"""LPIPS: its properties, and how its weights are read. The published weights are not needed for either."""

from __future__ import annotations

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch

from frolic.errors import NetworkError, UnsafeFileError
from frolic.train import perceptual
from frolic.train.perceptual import LPIPS, load_lpips

WIDTHS = [w for w in perceptual._LAYERS if w]


def published(seed: int = 0) -> dict:
    """Arrays of the published shapes, under the published names."""
    rng = np.random.default_rng(seed)
    convs, inside = {}, 3
    for i, out in enumerate(WIDTHS):
        kernel = rng.normal(0, (2 / (9 * inside)) ** 0.5, (3, 3, inside, out)).astype(np.float32)
        convs[f"Conv_{i}"] = {"kernel": kernel, "bias": np.zeros(out, np.float32)}
        inside = out
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": rng.uniform(0, 1, (1, 1, w, 1)).astype(np.float32)}}
        for i, w in enumerate((64, 128, 256, 512, 512))
    }
    return {"VGG16_0": convs, **heads}


def test_weights_are_read_once_and_kept_as_safetensors(tmp_path, monkeypatch):
    tree = published()
    fetched = []
    raw = pickle.dumps(tree)
    monkeypatch.setattr(perceptual, "_SHA256", hashlib.sha256(raw).hexdigest())
    monkeypatch.setattr(perceptual, "_fetch", lambda: fetched.append(1) or raw)
    first, second = (load_lpips(tmp_path / "deep" / "lpips.safetensors") for _ in range(2))
    assert len(fetched) == 1
    kernel = torch.tensor(tree["VGG16_0"]["Conv_2"]["kernel"])
    assert torch.equal(second.convs[2].weight, kernel.permute(3, 2, 0, 1))
    assert torch.equal(first.heads[4], torch.tensor(tree["NetLinLayer_4"]["Conv_0"]["kernel"]).flatten())
    assert not any(p.requires_grad for p in first.parameters())

    x = torch.rand(2, 3, 32, 32) * 2 - 1
    noise = torch.randn_like(x)
    assert torch.equal(first(x, x), torch.zeros(2))
    near, far = first(x, x + 0.05 * noise), first(x, x + 0.5 * noise)
    assert bool((near > 0).all()) and bool((far > near).all())
    moved = (x + 0.1 * noise).requires_grad_()
    first(x, moved).sum().backward()
    assert moved.grad is not None and float(moved.grad.abs().max()) > 0


def test_a_pickle_that_is_more_than_arrays_is_refused(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    raw = pickle.dumps({"VGG16_0": Evil()})
    monkeypatch.setattr(perceptual, "_SHA256", hashlib.sha256(raw).hexdigest())
    monkeypatch.setattr(perceptual, "_fetch", lambda: raw)
    with pytest.raises(UnsafeFileError, match="system"):
        load_lpips(tmp_path / "lpips.safetensors")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "lpips.safetensors").exists()


def test_other_weights_than_the_pinned_ones_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(perceptual, "_fetch", lambda: b"anything")
    with pytest.raises(NetworkError, match="not the pinned ones"):
        load_lpips(tmp_path / "lpips.safetensors")


def test_features_have_unit_length():
    for level in LPIPS().features(torch.rand(1, 3, 32, 32)):
        norm = level.square().sum(dim=1)
        assert bool(((norm - 1).abs() < 1e-4).logical_or(norm == 0).all())
