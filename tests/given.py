"""What requests are given besides text: pictures, a ControlNet for the tiny model, published rules for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from frolic.io import safetensors
from frolic.io.files import write_json
from frolic.models.sana import SanaConfig, SanaControlNet, SanaControlNetConfig
from frolic.models.sana.spec import SANA
from frolic.spec import FamilySpec, Published
from tiny import LATENTS, SIZE, STRIDE, WIDTH


def picture(width: int = SIZE, height: int = SIZE, seed: int = 5) -> Image.Image:
    """A picture in colours, smooth as pictures are."""
    grid = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(grid, size=(height, width), mode="bilinear")
    return Image.fromarray((smooth[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def half_mask(width: int = SIZE, height: int = SIZE) -> Image.Image:
    """White on the right, where a picture is drawn anew, and black on the left."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 2, 0, width, height))
    return mask


def transformer_config() -> SanaConfig:
    """That of the tiny model."""
    return SanaConfig(
        in_channels=LATENTS,
        out_channels=LATENTS,
        heads=4,
        head_dim=WIDTH // 4,
        layers=2,
        cross_heads=2,
        cross_head_dim=WIDTH // 2,
        caption_channels=16,
        sample_size=SIZE // STRIDE,
    )


def write_controlnet(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A ControlNet for the tiny model that does something, in ``folder``, which must not exist yet."""
    own = {"in_channels": 4, "out_channels": 4, "heads": 4, "head_dim": 8, "cross_heads": 2, "cross_head_dim": 16}
    config = SanaControlNetConfig(layers=1, caption_channels=16, sample_size=8, **own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = SanaControlNet(config)
        for parameter in net.parameters():
            if float(parameter.detach().abs().max()) < 1e-3:
                torch.nn.init.normal_(parameter, std=0.3)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config.to_json())
    state = SANA.optional["controlnet"].keymap(config).save(net.state_dict())
    safetensors.save({name: t.to(dtype) for name, t in state.items()}, folder / "diffusion_pytorch_model.safetensors")
    return folder


def publish(monkeypatch: pytest.MonkeyPatch, *entries: Published) -> None:
    """Let frolic know of these published models and of no others."""
    from dataclasses import replace

    family: FamilySpec = replace(SANA, published=entries)
    for place in ("frolic.plan.build.families", "frolic.plan.find.families"):
        monkeypatch.setattr(place, lambda: {"sana": family})
