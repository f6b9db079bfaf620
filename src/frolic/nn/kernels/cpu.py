"""The functions of ``cpu.cpp`` on tensors.

They are compiled when they are first asked for, for one type of activations, with the C++ compiler of the machine for
its own processor, and kept in a folder that is named by all that went into it. Letters of shapes are those of
``cpu.cpp``.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-fPIC", "-shared")
_TYPES = {torch.bfloat16: (), torch.float32: ("-DWIDE",)}
_KEPT = (torch.float32, torch.uint8)  # statistics, gains, masks
_SOURCE = Path(__file__).with_suffix(".cpp")


def compiler() -> str | None:
    """The C++ compiler, by ``CXX`` or by its usual names."""
    names = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Kernels:
    """The compiled functions for activations of ``dtype``."""

    def __init__(self, loaded: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._loaded = loaded
        self.dtype = dtype

    def __call__(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Call one. Tensors go as pointers to what it reads: their last axis lies together."""
        given: list[Any] = []
        for each in arguments:
            if isinstance(each, Tensor):
                assert each.device.type == "cpu" and each.stride(-1) == 1 and each.dtype in (*_KEPT, self.dtype)
                given.append(ctypes.c_void_p(each.data_ptr()))
            elif each is None:
                given.append(ctypes.c_void_p(None))
            else:
                given.append(ctypes.c_int64(each) if isinstance(each, int) else ctypes.c_float(each))
        getattr(self._loaded, name)(*given)

    def new(self, *shape: int) -> Tensor:
        """Room for an activation."""
        return torch.empty(shape, dtype=self.dtype)


@functools.cache
def kernels(dtype: torch.dtype) -> Kernels | None:
    """The functions for activations of ``dtype``, bfloat16 or float32; None where there is no compiler that knows this
    processor, or no place to keep what it makes."""
    found = compiler()
    try:
        return None if found is None else _compiled(found, dtype)
    except OSError:  # the home cannot be written, or code in it cannot be run
        return None


def _compiled(found: str, dtype: torch.dtype) -> Kernels | None:
    flags = (*_FLAGS, *_TYPES[dtype])
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    inputs = (_SOURCE.read_text("utf-8"), *flags, version, platform.machine(), _processor())
    name = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frolic" / "kernels"
    target = home / f"cpu-{name}.so"
    if not target.is_file():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as folder:
            made = Path(folder) / target.name
            run = subprocess.run([found, *flags, str(_SOURCE), "-o", str(made)], capture_output=True, check=False)
            if run.returncode:
                return None
            made.replace(target)
    return Kernels(ctypes.CDLL(str(target)), dtype)


def wide(*shape: int) -> Tensor:
    """Room for what is float32 whatever activations are."""
    return torch.empty(shape, dtype=torch.float32)


def _processor() -> str:
    """What the compiler will see: a cache that two machines share must hold the code of both."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
