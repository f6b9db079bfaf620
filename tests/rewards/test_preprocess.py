"""What a picture goes through before it is judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from frolic.rewards.preprocess import CLIP_MEAN, CLIP_STD, disturb, gaussian, normalise, resize


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_resize_is_near_what_pillow_does(fit: str) -> None:
    from PIL import Image

    smooth = gaussian(noise(1, 3, 48, 72), 2.0)
    picture = Image.fromarray((smooth[0].permute(1, 2, 0) * 255).round().byte().numpy())
    if fit == "squash":
        other = picture.resize((16, 16), Image.Resampling.BICUBIC)
    else:
        other = picture.resize((24, 16), Image.Resampling.BICUBIC).crop((4, 0, 20, 16))
    ours = resize(smooth, 16, fit)
    assert ours.shape == (1, 3, 16, 16)
    assert np.abs(ours[0].permute(1, 2, 0).numpy() * 255 - np.asarray(other, np.float32)).max() < 1.5


def test_resize_keeps_what_has_the_size_and_sees_every_pixel() -> None:
    x = noise(2, 3, 16, 16)
    assert torch.equal(resize(x, 16), x) and torch.equal(resize(x, 16, "crop"), x)
    large = noise(1, 3, 64, 64).requires_grad_()
    resize(large, 8).square().sum().backward()
    assert large.grad is not None and bool((large.grad != 0).all())


def test_resize_stays_a_picture() -> None:
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 16:] = 1
    assert resize(edge, 24).min() >= 0 and resize(edge, 24).max() <= 1, "bicubic swings over at edges"


def test_normalise() -> None:
    x = noise(2, 3, 4, 5)
    expected = (x.numpy() - np.array(CLIP_MEAN)[:, None, None]) / np.array(CLIP_STD)[:, None, None]
    np.testing.assert_allclose(normalise(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("deviation", [0.4, 1.5])
def test_gaussian_against_plain_numpy(deviation: float) -> None:
    x = noise(1, 3, 9, 11)
    reach = max(1, round(3 * deviation))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    kernel /= kernel.sum()
    expected = x[0].numpy().astype(np.float64)
    for axis in (1, 2):
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (reach, reach)
        expected = np.apply_along_axis(np.convolve, axis, np.pad(expected, pad, mode="edge"), kernel, "valid")
    np.testing.assert_allclose(gaussian(x, deviation)[0], expected, rtol=1e-4, atol=1e-5)


def test_disturbing_is_the_generator_s_alone() -> None:
    clips = noise(4, 2, 3, 24, 20)
    made = [disturb(clips, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    before = torch.random.get_rng_state()
    disturb(clips, torch.Generator().manual_seed(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert made[0].shape == clips.shape and made[0].min() >= 0 and made[0].max() <= 1
    assert not any(torch.equal(a, b) for a, b in zip(made[0], clips, strict=True))


def test_all_frames_of_a_clip_are_disturbed_alike() -> None:
    frame = noise(1, 1, 3, 24, 20)
    clips = frame.expand(6, 5, 3, 24, 20)
    made = disturb(clips, torch.Generator().manual_seed(4))
    torch.testing.assert_close(made, made[:, :1].expand_as(made))
    assert len({tuple(row.flatten().tolist()) for row in made[:, 0]}) == 6, "clips differ"


def test_some_are_blurred_and_some_are_only_cut() -> None:
    clips = noise(40, 1, 3, 24, 24)
    made = disturb(clips, torch.Generator().manual_seed(5), crop=0.0)
    kept = sum(torch.equal(a, b) for a, b in zip(made, clips, strict=True))
    assert 12 <= kept <= 34
    rough = [float(x.diff(dim=-1).abs().mean()) for x in (made, clips)]
    assert rough[0] < rough[1]


def test_disturbing_passes_gradients_on() -> None:
    clips = noise(3, 2, 3, 24, 20).requires_grad_()
    made = disturb(clips, torch.Generator().manual_seed(6))
    made.square().sum().backward()
    assert clips.grad is not None and bool(torch.isfinite(clips.grad).all())
    assert (clips.grad != 0).float().mean() > 0.7
