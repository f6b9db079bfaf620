"""Carry out a plan, in one fixed order: build unfilled, compare with the files, read, cast and move, assign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from frolic.accel.stream import BlockStream, block_number, blocks_of, pinned_bytes
from frolic.errors import CheckpointError, ResourceError, is_out_of_memory
from frolic.io.problems import Problems
from frolic.io.safetensors import Entry, compare, read_tensors
from frolic.io.tokenizer import Tokenizer
from frolic.lora.adapter import Loaded
from frolic.pipeline import ModelCard, Pipeline
from frolic.pipeline.loras import Read
from frolic.pipeline.parts import Held, Offloaded, Reread, Resident, Streamed, lasting
from frolic.plan import BuildPlan, Part, make_plan


def load(model: str | Path = "starter", *, loras: Mapping[str, Any] | None = None, **options: Any) -> Pipeline:
    """A pipeline that is ready to draw, with ``loras`` as ``Pipeline.loras`` takes them. Other arguments, and errors,
    as ``frolic.plan.make_plan`` and ``assemble``."""
    pipeline = assemble(make_plan(model, **options))
    if loras:
        pipeline.loras = loras
    return pipeline


def assemble(plan: BuildPlan) -> Pipeline:
    """Build what ``plan`` says.

    Raises:
        CheckpointError: listing all weights, of all parts, that are missing, unexpected, misshapen or not finite.
        ResourceError: they do not fit in memory.
    """
    tokenizer = Tokenizer(plan.tokenizer)
    known = plan.parts["text_encoder"].config.vocabulary
    if tokenizer.vocabulary > known:
        raise CheckpointError(
            f"The tokenizer {plan.tokenizer} has {tokenizer.vocabulary} tokens but the text encoder {known}; get the "
            "model's files again."
        )
    try:
        held = hold(plan)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(f"The model does not fit in the memory of {plan.device}; use --memory low.") from error
    return Pipeline(
        transformer=held["transformer"],
        vae=held["vae"],
        text_encoder=held["text_encoder"],
        transformer_2=held.get("transformer_2"),
        controlnet=held.get("controlnet"),
        tokenizer=tokenizer,
        defaults=plan.defaults,
        card=ModelCard(plan.name, plan.version, plan.family.name, plan.files),
        device=plan.device,
        dtypes={name: part.dtype for name, part in plan.parts.items()},
        prompt_suffix=plan.prompt_suffix,
        compat=plan.compat,
        tiling=plan.tiling,
        read_lora=_lora_reader(plan),
    )


def _lora_reader(plan: BuildPlan) -> Read:
    """How adapters are read for the plan's transformer, which need not be in memory for that."""
    part = plan.parts["transformer"]
    targets: list[Any] = []

    def read(source: str, expert: str) -> Loaded:
        from frolic.adapters import load as load_adapter
        from frolic.adapters import target

        if not targets:
            targets.append(target(part.spec, part.config))
        return load_adapter(source, targets[0], allow_partial=plan.allow_partial, expert=expert)

    return read


def hold(plan: BuildPlan) -> dict[str, Held]:
    """Every part: filled and in place, or, where memory is to be spared, ready to be when it is needed."""
    modules = build(plan)
    mode = plan.mode()
    if mode == "full":
        read_into(plan, modules)
        return {name: Resident(module) for name, module in modules.items()}
    streamed = {name for name, module in modules.items() if mode == "blocks" and blocks_of(module) is not None}
    rounded = sum(pinned_bytes(modules[name]) - plan.parts[name].bytes for name in streamed)
    if plan.device.type != "cpu" and plan.fits(torch.device("cpu"), max(0, rounded)):
        read_into(replace(plan, device=torch.device("cpu")), modules)
        return {
            name: (Streamed if name in streamed else Offloaded)(module, plan.device) for name, module in modules.items()
        }

    def reader(name: str) -> Callable[[], nn.Module]:
        alone = replace(plan, parts={name: plan.parts[name]})

        def read() -> nn.Module:
            modules = build(alone)
            if name in streamed:
                _stream_into(alone, name, modules[name])
            else:
                read_into(alone, modules)
            return modules[name]

        return read

    return {name: Reread(part.config, reader(name)) for name, part in plan.parts.items()}


def _stream_into(plan: BuildPlan, name: str, module: nn.Module) -> None:
    """Read all of a part but its blocks, each of which is read from its files whenever it is called."""
    part = plan.parts[name]
    wanted = part.keymap.wanted(part.entries)
    shares: dict[int | None, dict[str, Entry]] = {}
    for key, entry in wanted.items():
        shares.setdefault(block_number(part.keymap.ours(key)), {})[key] = entry
    read = partial(_read_share, plan, name)
    found = blocks_of(module)
    assert found is not None
    prefix = found[0]

    def fetch(index: int) -> dict[str, Tensor]:
        return {key.removeprefix(f"{prefix}.{index}."): tensor for key, tensor in read(shares[index]).items()}

    BlockStream(module, fetch, plan.device)
    with lasting():
        module.load_state_dict(read(shares.get(None, {})), strict=False, assign=True)
    module.requires_grad_(False).eval()


def _read_share(plan: BuildPlan, name: str, entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Those tensors of a part, under our names."""
    part = plan.parts[name]
    problems = _unusable(plan)
    theirs = read_tensors(entries, problems, dtype=_dtype_of(part), device=plan.device, where=f"{name}: ")
    problems.raise_any(CheckpointError)
    return part.keymap.load(theirs)


def _unusable(plan: BuildPlan) -> Problems:
    return Problems(f"The weights in {plan.path} cannot be used; get its files again")


class Unfilled(TorchFunctionMode):
    """Modules built inside skip their initialisation; memory that is never touched costs nothing.

    Not the meta device: arithmetic there (a scaled ``randn`` in a constructor) imports torch's compiler, two seconds,
    and buffers that no file holds would have to be computed again.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.randn:
            return torch.empty(*args, **kwargs or {})
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **kwargs or {})


def build(plan: BuildPlan) -> dict[str, nn.Module]:
    """The modules without values, after checking that the files hold exactly their tensors.

    Raises:
        CheckpointError: listing what is missing, unexpected or misshapen, or naming a part whose settings cannot be
            built.
    """
    modules: dict[str, nn.Module] = {}
    problems = Problems(f"The weights in {plan.path} do not fit the model; get its files again")
    for name, part in plan.parts.items():
        modules[name] = _build_part(part)
        shapes = {key: tensor.to("meta") for key, tensor in modules[name].state_dict().items()}
        compare(part.keymap.wanted(part.entries), part.keymap.save(shapes), problems, where=f"{name}: ")
    problems.raise_any(CheckpointError)
    return modules


def _build_part(part: Part) -> nn.Module:
    try:
        with Unfilled():
            return part.spec.build(part.config)
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"No {part.name} can be built from the settings in {part.path} ({error}); get the model's files again."
        ) from error


def _dtype_of(part: Part) -> Callable[[str], torch.dtype]:
    """Which dtype a tensor, by its name in the file, has in memory."""

    def dtype(name: str) -> torch.dtype:
        return torch.float32 if part.spec.precise(part.keymap.ours(name)) else part.dtype

    return dtype


@lasting()
def read_into(plan: BuildPlan, modules: dict[str, nn.Module]) -> None:
    """Read every part's weights into its module, cast and moved; nothing asks for gradients."""
    problems = _unusable(plan)
    for name, part in plan.parts.items():
        wanted = part.keymap.wanted(part.entries)
        theirs = read_tensors(wanted, problems, dtype=_dtype_of(part), device=plan.device, where=f"{name}: ")
        modules[name].load_state_dict(part.keymap.load(theirs), strict=True, assign=True)
        modules[name].requires_grad_(False).eval()
        if part.spec.channels_last:
            modules[name].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if plan.device.type != "cpu":
            modules[name].to(plan.device)  # buffers that no file holds
    problems.raise_any(CheckpointError)
