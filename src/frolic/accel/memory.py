"""How much memory is free where a model runs."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_PROC, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def free_bytes(device: torch.device | str) -> int:
    """What can still be allocated on ``device``, memory that PyTorch keeps for reuse included. Where the system does
    not tell, all that the machine has."""
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    known = [free for free in (_available(_PROC), _group_free(_CGROUP)) if free is not None]
    return min(known, default=_installed())


def _installed() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no such call
        return 8 * 2**30


def _available(meminfo: Path) -> int | None:
    for line in _text(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group_free(root: Path) -> int | None:
    """What the control group of a container (version 2, or 1) still allows; file caches give way."""
    for limit, used, statistics, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        most, now = _text(root / limit).strip(), _text(root / used).strip()
        if most.isdigit() and now.isdigit():
            counts = dict(line.split(maxsplit=1) for line in _text(root / statistics).splitlines() if " " in line)
            return max(0, int(most) - int(now) + int(counts.get(cache, 0)))
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
