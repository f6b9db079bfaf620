"""What a machine computes in."""

from __future__ import annotations

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies in bfloat16. Where it does not, PyTorch goes by way of float32, which on a CPU is
    over ten times slower than float32 itself."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
