"""Run a child process and say how long it took and how much memory it held; describe the machine it ran on."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """``seconds`` from start to exit, ``megabytes`` of resident memory at the peak, what it printed."""

    seconds: float
    megabytes: float
    output: str


def run(command: Sequence[str], threads: int) -> Run:
    """Run ``command`` to its end with ``threads`` threads and without a network.

    The caller must itself be small: until a child replaces its image it counts its parent's memory as its own.

    Raises:
        RuntimeError: it failed; the message ends with what it printed.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=errors, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if child.returncode != 0:
            said = errors.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command[:3])} ... ended with {child.returncode}:\n{said}")
        scale = 1 if sys.platform == "darwin" else 1024
        return Run(seconds, usage.ru_maxrss * scale / 1e6, out.read().decode())


def frolic_command() -> list[str]:
    """What starts ``frolic`` of the interpreter that runs this."""
    script = Path(sys.executable).with_name("frolic")
    return [str(script)] if script.is_file() else [sys.executable, "-c", "from frolic.cli.main import main; main()"]


def shipped(name: str) -> Path:
    """The folder ``name`` of models that ship with frolic, found without importing torch into this process."""
    spec = importlib.util.find_spec("frolic")
    assert spec is not None and spec.submodule_search_locations is not None, "install frolic first"
    return Path(next(iter(spec.submodule_search_locations))) / "starter" / name


def machine(threads: int) -> dict[str, Any]:
    """What a reader needs to judge the figures, and nothing that names the machine's owner."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in ("torch", "diffusers", "transformers", "tokenizers")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
