"""Carry out a plan, in one fixed order: build unfilled, compare with the files, read, cast and move, assign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from frolic.errors import CheckpointError, ResourceError, is_out_of_memory
from frolic.io.folder import Component
from frolic.io.problems import Problems
from frolic.io.safetensors import compare, read_tensors
from frolic.io.tokenizer import Tokenizer
from frolic.pipeline import ModelCard, Pipeline
from frolic.plan import BuildPlan, make_plan


def load(model: str | Path = "starter", *, dtype: str = "auto", device: str = "auto") -> Pipeline:
    """A pipeline that is ready to draw. Arguments and errors as ``frolic.plan.make_plan`` and ``assemble``."""
    return assemble(make_plan(model, dtype=dtype, device=device))


def assemble(plan: BuildPlan) -> Pipeline:
    """Build what ``plan`` says.

    Raises:
        CheckpointError: listing all weights, of all parts, that are missing, unexpected, misshapen or not finite.
        ResourceError: they do not fit in memory.
    """
    folder = plan.folder
    tokenizer = Tokenizer(folder.tokenizer)
    known = folder.components["text_encoder"].config.vocabulary
    if tokenizer.vocabulary > known:
        raise CheckpointError(
            f"The tokenizer of {folder.path} has {tokenizer.vocabulary} tokens but its text encoder {known}; get its "
            "files again."
        )
    try:
        modules = build(plan)
        read_into(plan, modules)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        instead = "use a smaller one" if plan.device.type == "cpu" else "try --device cpu"
        raise ResourceError(f"The model does not fit in the memory of {plan.device}; {instead}.") from error
    parts: dict[str, Any] = dict(modules)
    return Pipeline(
        transformer=parts["transformer"],
        vae=parts["vae"],
        text_encoder=parts["text_encoder"],
        tokenizer=tokenizer,
        defaults=folder.defaults,
        card=ModelCard(folder.name, folder.version, folder.family.name, plan.files),
        device=plan.device,
        dtype=plan.dtype,
        prompt_suffix=folder.prompt_suffix,
    )


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
    problems = Problems(f"The weights in {plan.folder.path} do not fit the model; get its files again")
    for name, part in plan.folder.components.items():
        modules[name] = _build_part(plan.folder.path / name, part)
        shapes = {key: tensor.to("meta") for key, tensor in modules[name].state_dict().items()}
        expected = part.spec.keymap(part.config).save(shapes)
        compare(plan.entries[name], expected, problems, where=f"{name}: ")
    problems.raise_any(CheckpointError)
    return modules


def _build_part(path: Path, part: Component) -> nn.Module:
    try:
        with Unfilled():
            return part.spec.build(part.config)
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"No model can be built from {path / 'config.json'} ({error}); get the model's files again."
        ) from error


def read_into(plan: BuildPlan, modules: dict[str, nn.Module]) -> None:
    """Read every part's weights into its module, cast and moved; nothing asks for gradients."""
    problems = Problems(f"The weights in {plan.folder.path} cannot be used; get its files again")
    for name, part in plan.folder.components.items():
        theirs = read_tensors(plan.entries[name], problems, dtype=plan.dtype, device=plan.device, where=f"{name}: ")
        ours = part.spec.keymap(part.config).load(theirs)
        modules[name].load_state_dict(ours, strict=True, assign=True)
        modules[name].requires_grad_(False).eval()
        if plan.device.type != "cpu":
            modules[name].to(plan.device)  # buffers that no file holds
    problems.raise_any(CheckpointError)
