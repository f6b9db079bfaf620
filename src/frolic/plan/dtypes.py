"""Which dtype each part of a model lives in: the checkpoint's rule, not the user's to know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from frolic.accel.arithmetic import has_bfloat16
from frolic.errors import RequestError, nearest
from frolic.io.safetensors import Entry
from frolic.spec import Published

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_LARGE = 200_000_000
"""Parameters from which a model draws in bfloat16 on a CPU that computes in it. A small one is as fast in float32."""

Parts = Mapping[str, Mapping[str, Entry]]


def choose_dtypes(
    name: str | torch.dtype | None,
    device: torch.device,
    parts: Parts,
    known: Published | None,
    alike: Sequence[Published],
    family: Mapping[str, tuple[str, ...]],
) -> dict[str, torch.dtype]:
    """The dtype of every part, for the dtype that was asked for by ``name`` (the transformer's); None is ``auto``.

    ``known`` holds the rule where this is a published checkpoint. Of others, weights stored in a half-precision type
    are safe in that one and in float32. Those stored in float32 are safe in what all published models ``alike`` in
    their config are, as they may be one of them; where there are none, in bfloat16, whose range is theirs. For the
    parts that it names, ``family`` says what is safe.

    Raises:
        RequestError: there is no such dtype, or it is not safe for this model.
    """
    spoken = {**DTYPES, **{short: DTYPES[long] for short, long in SHORT.items()}}
    name = "auto" if name is None else str(name).removeprefix("torch.") if isinstance(name, torch.dtype) else name
    if not isinstance(name, str) or (name != "auto" and name not in spoken):
        raise RequestError(f"dtype is {name!r}; give auto, {', '.join(DTYPES)}{nearest(str(name), spoken) or '.'}")
    sizes = _sizes(parts)
    safe = {}
    for part, entries in parts.items():
        given = known.dtypes[part] if known and part in known.dtypes else family.get(part, ())
        safe[part] = [DTYPES[one] for one in given] or _stored_rule(_sizes({part: entries}), part, alike)
    if "controlnet" in safe:
        # Its tokens are added to the transformer's.
        safe["controlnet"] = safe["transformer"]
    if name == "auto":
        return _automatic(device, safe, sizes, known is not None)
    wanted = spoken[name]
    if wanted not in safe["transformer"]:
        use = " or ".join(str(dtype).removeprefix("torch.") for dtype in reversed(safe["transformer"]))
        whose = f"The weights of {known.name}" if known else "These weights"
        raise RequestError(f"{whose} are not safe in {name}; use --dtype {use}.")
    return {part: wanted if wanted in allowed else _half(allowed, device) for part, allowed in safe.items()}


def _automatic(
    device: torch.device, safe: Mapping[str, list[torch.dtype]], sizes: Counter[torch.dtype], known: bool
) -> dict[str, torch.dtype]:
    if device.type == "cpu":
        quick = sizes.total() > _LARGE and has_bfloat16(device)
        return {
            part: torch.bfloat16 if quick and torch.bfloat16 in allowed else torch.float32
            for part, allowed in safe.items()
        }
    halves = sum(count for dtype, count in sizes.items() if dtype.itemsize <= 2)
    if known or 0 < sizes.total() <= 2 * halves:
        return {part: _half(allowed, device) for part, allowed in safe.items()}
    return dict.fromkeys(safe, torch.float32)


def _half(allowed: list[torch.dtype], device: torch.device) -> torch.dtype:
    """The first half-precision type in ``allowed`` that ``device`` computes in, or float32."""
    for dtype in allowed:
        if dtype.itemsize == 2 and (dtype is torch.float16 or has_bfloat16(device)):
            return dtype
    return torch.float32


def _sizes(parts: Parts) -> Counter[torch.dtype]:
    """How many floating-point values are stored in each dtype."""
    sizes: Counter[torch.dtype] = Counter()
    for entry in (entry for part in parts.values() for entry in part.values()):
        if entry.dtype.is_floating_point:
            sizes[entry.dtype] += math.prod(entry.shape)
    return sizes


def _stored_rule(sizes: Counter[torch.dtype], part: str, alike: Sequence[Published]) -> list[torch.dtype]:
    halves = [dtype for dtype in (torch.float16, torch.bfloat16) if dtype in sizes]
    if not halves:
        rules = [{DTYPES[one] for one in entry.dtypes[part]} for entry in alike if part in entry.dtypes]
        halves = [dtype for dtype in (torch.bfloat16, torch.float16) if all(dtype in rule for rule in rules)]
        halves = halves if rules else [torch.bfloat16]
    return [*halves, torch.float32] if len(halves) < 2 else [torch.float32]
