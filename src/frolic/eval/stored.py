"""How the judge's weights are kept: matrices and kernels as 8-bit integers with a scale for each output, a quarter of
float32 and nearer to it than 8-bit floats; all else in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

SCALE = ".scale"
_LEAST = 1024
"""Elements from which on a tensor is worth scales of its own."""


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` as it is written."""
    found = {}
    for name, value in state.items():
        if not value.is_floating_point():
            found[name] = value.contiguous()
        elif value.ndim < 2 or value.numel() < _LEAST:
            found[name] = value.to(torch.bfloat16).contiguous()
        else:
            rows = value.detach().float().flatten(1)
            scale = rows.abs().amax(dim=1).clamp_min(1e-12) / 127
            found[name] = (rows / scale[:, None]).round().to(torch.int8).reshape(value.shape).contiguous()
            found[name + SCALE] = scale
    return found


def unpacked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In float32 what ``packed`` made, or what was written before there were scales.

    Raises:
        ValueError: scales and integers do not belong together.
    """
    found = {}
    for name, value in state.items():
        if name.endswith(SCALE):
            if name.removesuffix(SCALE) not in state:
                raise ValueError(f"{name} is the scale of nothing")
            continue
        scale = state.get(name + SCALE)
        if scale is None:
            found[name] = value.float() if value.is_floating_point() else value
            continue
        if value.dtype != torch.int8 or value.ndim < 2 or scale.shape != value.shape[:1]:
            raise ValueError(f"{name} and its scale do not belong together")
        found[name] = value.float() * scale.float().reshape(-1, *[1] * (value.ndim - 1))
    return found


def as_stored(net: nn.Module) -> None:
    """Round the weights of ``net`` as storing them would: what is measured is what is shipped."""
    net.load_state_dict(unpacked(packed(net.state_dict())))
