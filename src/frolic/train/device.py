"""Where a run computes."""

from __future__ import annotations

import os
import shutil

import torch


def resolve_device(name: str) -> torch.device:
    """``auto`` is the GPU where one works, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def has_compiler() -> bool:
    """Whether ``torch.compile`` finds the C++ compiler that it needs, on the CPU and for Triton's launchers alike."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"))
