"""Where a run computes."""

from __future__ import annotations

import os
import shutil

import torch

from frolic.accel.arithmetic import has_bfloat16
from frolic.config import Precision


def resolve_device(name: str) -> torch.device:
    """``auto`` is the GPU where one works, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def in_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether what a recipe calls ``precision`` is bfloat16 on ``device``."""
    return has_bfloat16(device) if precision == "auto" else precision == "bf16"


def has_compiler() -> bool:
    """Whether ``torch.compile`` finds the C++ compiler that it needs, on the CPU and for Triton's launchers alike."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"))


def forget_casts() -> None:
    """After a pass without gradients and before one with them: some torch releases from 2.8 on would otherwise hand
    autocast's copies of the weights on, which no gradient goes through (pytorch/pytorch#165068)."""
    torch.clear_autocast_cache()
