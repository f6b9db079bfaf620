"""What a request would take: sizes, memory and time, from settings and file headers alone."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from frolic.accel.memory import free_bytes
from frolic.plan.build import BuildPlan
from frolic.request import Request, batch_size
from frolic.sampling import guidance

_HOW = {"full": "all parts stay loaded", "low": "one part at a time", "blocks": "one block of one part at a time"}
_EFFICIENCY = 0.4
"""The share of a plain matrix product's speed that a whole picture is computed at."""


@dataclass(frozen=True)
class PartEstimate:
    """One part: ``bytes`` of its weights in memory and ``working`` bytes of what is computed with it."""

    name: str
    dtype: str
    parameters: int
    bytes: int
    working: int


@dataclass(frozen=True)
class Estimate:
    """``peak`` is the most memory in use at once, in the mode (``full``, ``low`` or ``blocks``) that would be chosen;
    ``free`` is what there is. ``tiled``: whether the decoder works in pieces. ``seconds`` is a guess from a short
    measurement."""

    model: str
    device: str
    size: str
    drawn: str
    pictures: int
    steps: int
    parts: tuple[PartEstimate, ...]
    mode: str
    tiled: bool
    peak: int
    free: int
    seconds: float
    notes: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """All of it, for people."""
        lines = [
            f"{self.model} on {self.device}: {self.pictures} at {self.size} (drawn at {self.drawn}), {self.steps} steps"
        ]
        for part in self.parts:
            lines.append(
                f"  {part.name:<13} {part.parameters / 1e6:8.1f} M  {part.dtype:<9} {_size(part.bytes):>9} of weights, "
                f"{_size(part.working):>9} to work in"
            )
        how = _HOW[self.mode]
        decoding = ", decoded in pieces" if self.tiled else ""
        fits = "" if self.peak <= self.free else "; that is more than there is"
        lines.append(f"memory: about {_size(self.peak)} of {_size(self.free)} free ({how}{decoding}){fits}")
        lines.append(f"time: about {_time(self.seconds)}")
        return [*lines, *self.notes]


def estimate(plan: BuildPlan, request: Request) -> Estimate:
    """What drawing ``request`` with ``plan`` would take. Measures the device for a tenth of a second; reads no weights.

    Raises:
        RequestError: the request cannot be carried out by this model.
    """
    transformer, vae = plan.parts["transformer"], plan.parts["vae"]
    config = transformer.config
    request, notes = request.completed(plan.defaults, vae.config.stride * config.patch_size, config.layers)
    height, width = request.drawn(plan.defaults, vae.config.stride * config.patch_size)
    grid = (height // vae.config.stride, width // vae.config.stride)
    frames = request.frames or 1
    at_once = min(request.pictures, batch_size(height, width, frames))
    branches = len(guidance.branches(request.branch_scale, request.pag_scale))
    latent_frames = 1 + (frames - 1) // plan.defaults.frame_stride
    tokens = latent_frames * grid[0] * grid[1] // config.patch_size**2
    text = plan.defaults.max_tokens
    free = free_bytes(plan.device)
    mode = plan.mode()
    resident = plan.weight_bytes() if mode == "full" else vae.bytes
    decoding, tiled = vae.config.decode_bytes(*grid, vae.dtype.itemsize, free - resident, plan.device.type, plan.tiling)
    if frames > 1:
        decoding += frames * height * width * 3 * 4  # the frames themselves
    denoising = config.working_bytes(tokens, transformer.dtype.itemsize) * at_once * branches
    working = {"transformer": denoising, "transformer_2": denoising, "vae": decoding}
    parts = tuple(
        PartEstimate(
            name=name,
            dtype=str(part.dtype).removeprefix("torch."),
            parameters=part.bytes // part.dtype.itemsize,
            bytes=part.bytes,
            working=working.get(name, 0),
        )
        for name, part in plan.parts.items()
    )
    # A ControlNet works beside the transformer, so the two are loaded together.
    together = {name: part.streamed_bytes if mode == "blocks" else part.bytes for name, part in plan.parts.items()}
    together["transformer"] += together.get("controlnet", 0)
    peak = max((resident if mode == "full" else together[part.name]) + part.working for part in parts)
    steps = max(1, int((request.steps or 1) * request.strength))
    forward = config.flops(tokens, text) * branches * steps * request.pictures
    if "controlnet" in plan.parts:
        forward *= 1 + plan.parts["controlnet"].config.layers / config.layers
    decode = vae.config.decode_flops(*grid) * latent_frames * request.pictures
    seconds = sum(
        work / (_EFFICIENCY * _speed(plan.device, part.dtype)) for work, part in ((forward, transformer), (decode, vae))
    )
    return Estimate(
        model=plan.name,
        device=str(plan.device),
        size=f"{request.width}x{request.height}" + (f", {frames} frames" if frames > 1 else ""),
        drawn=f"{width}x{height}",
        pictures=request.pictures,
        steps=request.steps or 0,
        parts=parts,
        mode=mode,
        tiled=tiled,
        peak=peak,
        free=free,
        seconds=round(seconds, 2),
        notes=(*plan.notes, *notes),
    )


def _speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a matrix product."""
    side = 512 if device.type == "cpu" else 4096
    matrix = torch.randn(side, side, device=device).to(dtype)
    float((matrix @ matrix)[0, 0])  # the first one makes the libraries ready
    best = 0.0
    ends = time.perf_counter() + 0.05
    while best == 0.0 or time.perf_counter() < ends:
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a value waits for an accelerator
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
