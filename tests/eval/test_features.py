from __future__ import annotations

import pytest
import torch

from frolic.eval.features import EfficientNetLite, frechet
from frolic.eval.reconstruction import measure, psnr


def test_the_distance_is_that_of_the_two_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(400, 3, generator=generator).double() * torch.tensor([1.0, 2.0, 0.5])
    b = torch.randn(300, 3, generator=generator).double() @ torch.randn(3, 3, generator=generator).double() + 1
    values = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(b.T)).real.clamp(min=0).sqrt().sum()
    wanted = (a.mean(0) - b.mean(0)).square().sum() + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * values
    assert frechet(a, b) == pytest.approx(float(wanted), rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, b) == pytest.approx(frechet(b, a))


def state() -> dict[str, torch.Tensor]:
    """Names and shapes of the published file, with tiny widths and one kernel of five."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, torch.Tensor] = {}

    def conv(name: str, out: int, inputs: int, kernel: int) -> None:
        found[f"{name}.weight"] = torch.randn(out, inputs, kernel, kernel, generator=generator) * 0.3

    def norm(name: str, width: int) -> None:
        for part, fill in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            found[f"{name}.{part}"] = torch.full((width,), fill)

    conv("_conv_stem", 4, 3, 3)
    norm("_bn0", 4)
    for index in range(16):
        name = f"_blocks.{index}."
        if index:
            conv(f"{name}_expand_conv", 8, 4, 1)
            norm(f"{name}_bn0", 8)
        inner = 8 if index else 4
        conv(f"{name}_depthwise_conv", inner, 1, 5 if index % 2 else 3)
        norm(f"{name}_bn1", inner)
        conv(f"{name}_project_conv", 4, inner, 1)
        norm(f"{name}_bn2", 4)
    conv("_conv_head", 12, 4, 1)
    norm("_bn1", 12)
    return found


def test_the_network_runs_from_a_state_dict_alone() -> None:
    net = EfficientNetLite(state())
    x = torch.rand(2, 3, 100, 100, generator=torch.Generator().manual_seed(1)) * 2 - 1
    out = net(x)
    assert out.shape == (2, 12) and bool(out.isfinite().all()) and not torch.equal(out[0], out[1])
    assert torch.allclose(net(x[:1]), out[:1], atol=1e-5)


def test_decibels() -> None:
    x = torch.zeros(1, 3, 8, 8)
    assert psnr(x, x) == 100
    assert psnr(x, x + 0.2) == pytest.approx(20, abs=1e-4)
    found = measure(lambda y: y + 0.2, torch.zeros(3, 3, 8, 8))
    assert (found.n, found.psnr, found.lpips) == (3, 20.0, None)
