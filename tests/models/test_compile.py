"""Blocks that are compiled share one compilation, however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from frolic.models.registry import families

LAYERS = 10  # more than torch compiles of one function
# fmt: off
SANA = {
    "in_channels": 4, "out_channels": 4, "num_layers": LAYERS, "num_attention_heads": 2, "attention_head_dim": 8,
    "num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16,
    "caption_channels": 12, "sample_size": 4, "mlp_ratio": 2.0,
}
WAN = {
    "in_channels": 4, "out_channels": 4, "num_layers": LAYERS, "num_attention_heads": 2, "attention_head_dim": 12,
    "text_dim": 12, "freq_dim": 16, "ffn_dim": 32, "patch_size": [1, 1, 1],
}
# fmt: on


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("family", "config", "shape"), [("sana", SANA, (4, 4, 4)), ("wan", WAN, (4, 2, 4, 4))])
def test_blocks_share_one_compilation(family: str, config: dict[str, Any], shape: tuple[int, ...]) -> None:
    spec = families()[family].components["transformer"]
    torch.manual_seed(0)
    model: Any = spec.build(spec.configure(config))

    def run() -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(2, *shape, generator=generator)
        text = torch.randn(2, 3, 12, generator=generator)
        out = model(x, torch.tensor([300.0, 700.0]), text, torch.ones(2, 3, dtype=torch.bool))
        model.zero_grad()
        out.square().sum().backward()
        return out.detach(), model.blocks[-1].table.grad.clone()

    plain = run()
    counter = CompileCounter()
    blocks: nn.ModuleList = model.blocks
    for block in blocks:
        block.compile(backend=counter, dynamic=False)
    compiled = run()
    assert counter.frame_count == 1, f"{counter.frame_count} compilations of {LAYERS} blocks"
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b)
    assert not any("orig" in name for name in model.state_dict()), "names stay as they are"
