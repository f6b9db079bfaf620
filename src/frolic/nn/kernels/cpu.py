"""The functions of ``cpu.cpp`` on tensors.

The library is compiled when it is first asked for, with the C++ compiler of the machine for its own processor, and kept
in a folder that is named by all that went into it. Letters of shapes are those of ``cpu.cpp``.
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
_SOURCE = Path(__file__).with_suffix(".cpp")


def compiler() -> str | None:
    """The C++ compiler, by ``CXX`` or by its usual names."""
    names = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where there is no compiler that knows this processor."""
    found = compiler()
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    inputs = (_SOURCE.read_text("utf-8"), *_FLAGS, version, platform.machine(), _processor())
    name = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frolic" / "kernels"
    target = home / f"cpu-{name}.so"
    if not target.is_file():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as folder:
            made = Path(folder) / target.name
            run = subprocess.run([found, *_FLAGS, str(_SOURCE), "-o", str(made)], capture_output=True, check=False)
            if run.returncode:
                return None
            made.replace(target)
    return ctypes.CDLL(str(target))


def _processor() -> str:
    """What the compiler will see: a cache that two machines share must hold the code of both."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def call(name: str, *arguments: Tensor | int | float | None) -> None:
    """Call a function of the library. Tensors go as pointers to what it reads: their last axis lies together."""
    given: list[Any] = []
    for each in arguments:
        if isinstance(each, Tensor):
            assert each.device.type == "cpu" and each.stride(-1) == 1
            given.append(ctypes.c_void_p(each.data_ptr()))
        elif each is None:
            given.append(ctypes.c_void_p(None))
        else:
            given.append(ctypes.c_int64(each) if isinstance(each, int) else ctypes.c_float(each))
    loaded = library()
    assert loaded is not None, "ask library() first"
    getattr(loaded, name)(*given)


def half(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


def wide(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32)
