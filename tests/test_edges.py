from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from frolic.errors import CheckpointError, ModelError, RequestError
from frolic.models.hed import HED, published_keys
from frolic.models.hed.model import CONVOLUTIONS, WIDTHS
from frolic.pipeline.edges import blur, control_picture, lines, soft_edges


def disc(side: int, inside=(255, 255, 255), outside=(0, 0, 0)) -> Image.Image:
    large = Image.new("RGB", (4 * side, 4 * side), outside)
    ImageDraw.Draw(large).ellipse([side, side, 3 * side, 3 * side], fill=inside)
    return large.resize((side, side), Image.Resampling.BOX)


def ring(side: int, width: float) -> Tensor:
    """Where the disc's outline is, within ``width`` of the side."""
    place = (torch.arange(side) + 0.5) / side - 0.5
    return ((place[:, None] ** 2 + place[None] ** 2).sqrt() - 0.25).abs() < width


@pytest.mark.parametrize("side", [96, 300, 1400])
def test_the_outline_of_a_disc_is_a_closed_thin_white_line(side):
    found = (control_picture(disc(side), "edges") + 1) / 2
    assert found.shape == (3, side, side) and torch.equal(found[0], found[2])
    assert float(found[0][~ring(side, 0.05)].max()) < 0.02, "nothing elsewhere"
    turn = torch.arange(0, 360, 3) * torch.pi / 180
    along = [
        found[0][((0.5 + r * turn.sin()) * side).long(), ((0.5 + r * turn.cos()) * side).long()]
        for r in (0.24, 0.245, 0.25, 0.255, 0.26)
    ]
    assert float(torch.stack(along).amax(dim=0).min()) > 0.35, "closed"
    assert float(torch.stack(along).amax(dim=0).mean()) > 0.85, "and clear"
    assert float(found[0].mean()) < 0.08, "thin"


def test_colours_of_one_brightness_have_an_edge_and_slow_shades_have_none():
    found = soft_edges(_pixels(disc(128, (200, 60, 60), (60, 116, 200))))
    assert float(found.max()) > 0.9
    shade = torch.linspace(-1, 1, 128).expand(1, 3, 128, 128)
    assert float(soft_edges(shade)[..., 4:-4].max()) == 0


def test_texture_is_fainter_than_the_outline():
    generator = torch.Generator().manual_seed(0)
    pixels = _pixels(disc(256)) * 0.5 + blur(torch.randn(1, 3, 256, 256, generator=generator), 0.7) * 0.15
    found = soft_edges(pixels)[0, 0]
    assert float(found[ring(256, 0.01)].mean()) > 8 * float(found[~ring(256, 0.05)].mean())


def test_the_same_picture_gives_the_same_edges_alone_and_in_a_batch():
    a, b = _pixels(disc(64)), torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    torch.testing.assert_close(soft_edges(torch.cat([a, b]))[1:], soft_edges(b))
    assert float(soft_edges(torch.zeros(1, 3, 1, 5)).max()) == 0


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("egdes", "did you mean 'edges'"),
        ("hed", "give hed:FILE"),
        ("edges:x", "give edges"),
        ("", "known: edges, hed:FILE"),
    ],
)
def test_an_unknown_kind_is_refused_with_the_known_ones(kind, said):
    with pytest.raises(RequestError, match=said):
        control_picture(disc(32), kind)


def _pixels(image: Image.Image) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Under the published names, of some size, so that edges are neither all nor nothing."""
    generator = torch.Generator().manual_seed(0)
    found = {"norm": torch.tensor([123.0, 117.0, 104.0]).view(1, 3, 1, 1)}
    channels = 3
    for block, (width, count) in enumerate(zip(WIDTHS, CONVOLUTIONS, strict=True), 1):
        for index in range(count):
            shape = (width, channels, 3, 3)
            found[f"block{block}.convs.{index}.weight"] = (
                torch.randn(shape, generator=generator) * (2 / channels / 9) ** 0.5
            )
            found[f"block{block}.convs.{index}.bias"] = torch.randn(width, generator=generator) * 0.1
            channels = width
        found[f"block{block}.projection.weight"] = torch.randn(1, width, 1, 1, generator=generator) * 0.002
        found[f"block{block}.projection.bias"] = torch.randn(1, generator=generator) * 0.1
    return found


def plain_hed(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The network, written down from the paper and the published names alone."""
    x = x - weights["norm"]
    size, sides = x.shape[-2:], []
    for block, count in enumerate((2, 2, 3, 3, 3), 1):
        if block > 1:
            x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(-1, -2))
        for index in range(count):
            name = f"block{block}.convs.{index}"
            x = F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).clamp_min(0)
        side = torch.einsum("bchw,oc->bohw", x, weights[f"block{block}.projection.weight"][:, :, 0, 0])
        side = side + weights[f"block{block}.projection.bias"]
        sides.append(F.interpolate(side, size=size, mode="bilinear", align_corners=False))
    return 1 / (1 + torch.exp(-torch.stack(sides).mean(dim=0)))


def test_the_edge_network_computes_what_its_paper_says(weights):
    net = HED()
    net.load_state_dict(published_keys().load(weights))
    x = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(2)) * 255
    with torch.no_grad():
        found, wanted = net(x), plain_hed(x, weights)
    assert float(wanted.std()) > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert published_keys().save(net.state_dict()).keys() == weights.keys()


def test_the_network_is_asked_at_its_own_size_and_the_map_is_the_pictures(tmp_path, weights, monkeypatch):
    save_file(weights, tmp_path / "hed.safetensors")
    monkeypatch.setattr("frolic.pipeline.edges._HED_SIDE", 64)
    image = disc(80)
    found = control_picture(image.resize((120, 80)), f"hed:{tmp_path / 'hed.safetensors'}")
    assert found.shape == (3, 80, 120) and float(found.std()) > 1e-3
    drawn = control_picture(image, f"scribble:{tmp_path / 'hed.safetensors'}")
    assert drawn.shape == (3, 80, 80)


def test_soft_maps_become_lines():
    soft = torch.zeros(1, 1, 128, 128)
    place = torch.arange(128.0)
    soft += 0.9 * torch.exp(-0.5 * ((place - 64) / 3) ** 2)
    soft[..., 20:24, :40] = 0.3
    found = lines(soft)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert float(found[0, 0, :, 64].min()) == 1 and 6 < float(found[0, 0, 64].sum()) < 20
    assert float(found[0, 0, 16:28, :30].max()) == 0, "what is faint is no line"


def test_weights_that_do_not_fit_are_listed_and_pickles_refused(tmp_path, weights):
    wrong = {name: tensor for name, tensor in weights.items() if name != "block3.projection.bias"}
    save_file(wrong | {"more": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError, match=r"block3\.projection\.bias"):
        control_picture(disc(32), f"hed:{tmp_path / 'wrong.safetensors'}")
    torch.save(weights, tmp_path / "ControlNetHED.pth")
    with pytest.raises(ModelError, match="safetensors"):
        control_picture(disc(32), f"hed:{tmp_path / 'ControlNetHED.pth'}")
