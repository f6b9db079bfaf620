"""Adapters written as other programs read them; each applies the same strength.

Scales are multiplied into the factors, and alpha is said to be the rank: diffusers and PEFT take that where nothing is
said, ComfyUI and kohya's loaders read it from the tensors.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from frolic import __version__
from frolic.adapters.read import DIFFUSERS, Target
from frolic.errors import RequestError, nearest
from frolic.io import safetensors
from frolic.io.problems import Problems
from frolic.lora.adapter import METADATA, Adapter
from frolic.lora.delta import Delta, of_rows
from frolic.lora.experts import METADATA as EXPERT
from frolic.lora.experts import part_of, renamed

FORMATS = ("diffusers", "comfy", "kohya", "original")
ORIGINAL = "original"


def write(
    adapter: Adapter,
    path: Path,
    goal: Target,
    form: str = "diffusers",
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    force: bool = False,
) -> None:
    """Write ``adapter`` at ``path`` in one of ``FORMATS``, with ``metadata`` beside what describes it.

    Raises:
        RequestError: there is no such format, or it cannot say what the adapter does; all of that is listed.
        FileError, ResourceError: as ``frolic.io.files.whole_file``.
    """
    tensors = encode(adapter, goal, form)
    _save(tensors, path, {**describe(adapter, tensors, form), **(metadata or {})}, dtype, force)


def write_experts(
    adapters: Mapping[str, Adapter],
    path: Path,
    goal: Target,
    *,
    two: bool,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    force: bool = False,
) -> None:
    """Write the adapters of one or both experts, ``high`` and ``low``, as one file of diffusers' names, in which
    ``transformer_2`` is the low one. ``two``: whether the model has two experts. Raises as ``write``."""
    tensors: dict[str, Tensor] = {}
    about: dict[str, str] = {}
    for expert, adapter in adapters.items():
        encoded = encode(adapter, goal, "diffusers")
        said = describe(adapter, encoded, "diffusers", part_of(expert))
        settings = {**json.loads(about.get(METADATA, "{}")), **json.loads(said[METADATA])}
        about = {**said, **about, METADATA: json.dumps(settings)}
        tensors |= renamed(encoded, expert)
    if two and len(adapters) == 1:
        about[EXPERT] = next(iter(adapters))
    _save(tensors, path, {**about, **(metadata or {})}, dtype, force)


def _save(tensors: Mapping[str, Tensor], path: Path, about: dict[str, str], dtype: torch.dtype, force: bool) -> None:
    ready = {key: tensor.to(dtype).contiguous() for key, tensor in tensors.items()}
    safetensors.save(ready, path, metadata=about, force=force)


def encode(adapter: Adapter, goal: Target, form: str) -> dict[str, Tensor]:
    """The tensors of ``adapter`` in one of ``FORMATS``. Raises as ``write``."""
    if form not in FORMATS:
        raise RequestError(f"Choose a format of {', '.join(FORMATS)}: {form!r} is not known{nearest(form, FORMATS)}.")
    layout = DIFFUSERS if form == "diffusers" else ORIGINAL
    if layout not in goal.layouts:
        raise RequestError(f"This model has no {layout} naming; choose another format.")
    cannot = f"The {form} format cannot hold this adapter"
    problems = Problems(f"{cannot}; convert it with a --rank first")
    biases = Problems(f"{cannot}; choose --to comfy, or merge it into a model")
    tensors: dict[str, Tensor] = {}
    for linear, delta in adapter.deltas.items():
        if delta.dense is not None and (form == "diffusers" or delta.rank):
            problems.add("a change that is not of low rank", linear)
        elif delta.bias is not None and form == "diffusers":
            biases.add("a bias", linear)
        else:
            for module, part, flat in _modules(linear, delta, goal, layout):
                tensors |= (
                    _diffusers(module, part, flat) if form == "diffusers" else _original(module, part, flat, form)
                )
    biases.raise_any(RequestError)  # no rank helps with those
    problems.raise_any(RequestError)
    return tensors


def _modules(linear: str, delta: Delta, goal: Target, layout: str) -> Iterator[tuple[str, Delta, tuple[int, ...]]]:
    """Their modules for a linear of ours, each with its part of the change and the shape of its weight's rows."""
    names = goal.names.spoken(linear, layout)
    saved = goal.layouts[layout].save({f"{linear}.weight": torch.empty(goal.shapes[linear], device="meta")})
    rows = goal.shapes[linear][0] // len(names)
    for number, module in enumerate(names):
        part = delta if len(names) == 1 else of_rows(delta, slice(number * rows, (number + 1) * rows))
        silent = part.rank == 0 and part.dense is None and part.bias is None
        if not silent:
            yield module, part, tuple(saved[f"{module}.weight"].shape[1:])


def _factors(part: Delta, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Down and up, with the dimensions of a convolution where their module is one."""
    if len(shape) == 1:
        return part.a, part.b
    return part.a.reshape(part.rank, *shape), part.b.reshape(*part.b.shape, *[1] * (len(shape) - 1))


def _diffusers(module: str, part: Delta, shape: tuple[int, ...]) -> dict[str, Tensor]:
    down, up = _factors(part, shape)
    key = f"transformer.{module}"
    out = {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    return out if part.magnitude is None else out | {f"{key}.lora_magnitude_vector": part.magnitude}


def _original(module: str, part: Delta, shape: tuple[int, ...], form: str) -> dict[str, Tensor]:
    prefix = {"comfy": "diffusion_model.", "kohya": "lora_unet_", "original": ""}[form]
    key = prefix + (module.replace(".", "_") if form == "kohya" else module)
    out: dict[str, Tensor] = {}
    if part.rank:
        out[f"{key}.lora_down.weight"], out[f"{key}.lora_up.weight"] = _factors(part, shape)
        out[f"{key}.alpha"] = torch.tensor(float(part.rank))
    if part.dense is not None:
        out[f"{key}.diff"] = part.dense.reshape(-1, *shape)
    if part.bias is not None:
        out[f"{key}.diff_b"] = part.bias
    return out if part.magnitude is None else out | {f"{key}.dora_scale": part.magnitude[:, None]}


def describe(adapter: Adapter, tensors: Mapping[str, Tensor], form: str, part: str = "transformer") -> dict[str, str]:
    """What programs read of an adapter before they open it: diffusers' settings for a ``part``, kohya's ``ss_*``,
    ModelSpec."""
    ranks = Counter(
        tensor.shape[0] for key, tensor in tensors.items() if key.endswith(("lora_A.weight", "lora_down.weight"))
    )
    usual = ranks.most_common(1)[0][0] if ranks else 0
    about = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": f"frolic {__version__}",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(usual),
        "ss_network_alpha": str(float(usual)),
    }
    if form == "diffusers":
        modules = {
            key.removeprefix("transformer.").removesuffix(".lora_A.weight"): tensor.shape[0]
            for key, tensor in tensors.items()
            if key.endswith(".lora_A.weight")
        }
        other = {module: rank for module, rank in modules.items() if rank != usual}
        settings = {
            "r": usual,
            "lora_alpha": usual,
            "target_modules": sorted(modules),
            "rank_pattern": other,
            "alpha_pattern": other,
            "use_dora": any(delta.magnitude is not None for delta in adapter.deltas.values()),
        }
        about[METADATA] = json.dumps({f"{part}.{key}": value for key, value in settings.items()})
    return about
