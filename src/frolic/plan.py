"""What will be built, decided and checked before a weight is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from frolic.errors import CheckpointError, ModelNotFoundError, RequestError, nearest
from frolic.io.folder import ModelFolder, open_folder
from frolic.io.problems import Problems
from frolic.io.safetensors import Entry, read_headers, refuse_pickle
from frolic.models.registry import families
from frolic.request import Request

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def _starter() -> Path:
    return Path(__file__).parent / "starter" / "model"


ALIASES: Mapping[str, Callable[[], Path]] = {"starter": _starter}
"""Models that are known by a short name."""


@dataclass(frozen=True)
class BuildPlan:
    """A model folder, the tensors its weights say they hold, and how they will live in memory."""

    folder: ModelFolder
    entries: Mapping[str, Mapping[str, Entry]]
    dtype: torch.dtype
    device: torch.device

    @property
    def weights(self) -> tuple[Path, ...]:
        """Every file with weights, in a fixed order."""
        return tuple(sorted({entry.file for part in self.entries.values() for entry in part.values()}))

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that decides what the model draws, in a fixed order: weights, settings, tokenizer."""
        return (*self.weights, *self.folder.settings)


def make_plan(model: str | Path, *, dtype: str = "auto", device: str = "auto") -> BuildPlan:
    """Decide how to build ``model``: an alias or a folder in diffusers' layout.

    ``dtype``: ``auto`` is float32 on the CPU; elsewhere it is the half-precision type that most of the checkpoint is
    stored in, or float32. ``device``: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        ModelNotFoundError: nothing is there.
        UnsafeFileError: a pickle is there.
        CheckpointError: what is there cannot be used.
        RequestError: the dtype or the device does not exist, or does not suit this model.
    """
    chosen_device = choose_device(device)
    folder = open_folder(find_model(model), families())
    _check_parts(folder)
    _check_defaults(folder)
    entries = {name: read_headers(part.weights) for name, part in folder.components.items()}
    return BuildPlan(folder, entries, _choose_dtype(dtype, chosen_device, entries), chosen_device)


def find_model(model: str | Path) -> Path:
    """Where ``model`` lies.

    Raises:
        ModelNotFoundError: it is neither an alias nor a path to something.
        UnsafeFileError: it is a pickle.
    """
    if isinstance(model, str) and model in ALIASES:
        path = ALIASES[model]()
        if not path.is_dir():
            raise ModelNotFoundError(f"The model {model!r} is not part of this installation; install frolic again.")
        return path
    path = Path(model).expanduser()
    try:
        if path.is_file():
            refuse_pickle(path)
        if path.exists():
            return path
    except (OSError, ValueError):
        pass
    hint = nearest(str(model), ALIASES) or f"; known: {', '.join(ALIASES)}, or give the path of a model folder."
    raise ModelNotFoundError(f"There is no model {str(model)[:200]!r}{hint}")


def choose_device(device: str) -> torch.device:
    """The device ``device`` names.

    Raises:
        RequestError: it is not a device, or this machine has none.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise RequestError(f"{device!r} is not a device; give auto, cpu, cuda, cuda:N or mps.") from None
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise RequestError(f"This machine has no device {device!r} that torch can use; give --device cpu.")
    elif chosen.type == "mps":
        if not torch.backends.mps.is_available():
            raise RequestError("This machine has no device 'mps' that torch can use; give --device cpu.")
    elif chosen.type != "cpu":
        raise RequestError(f"{device!r} is not supported; give auto, cpu, cuda, cuda:N or mps.")
    return chosen


def _check_parts(folder: ModelFolder) -> None:
    """Refuse parts that are each in order but do not belong together."""
    transformer, vae, text = (folder.components[name].config for name in ("transformer", "vae", "text_encoder"))
    problems = Problems(f"The parts of the model in {folder.path} do not fit each other; get its files again")
    for what, one, other in (
        ("colour channels", vae.in_channels, 3),
        ("latent channels", vae.latent_channels, transformer.in_channels),
        ("channels in and out", transformer.in_channels, transformer.out_channels),
        ("text width", text.width, transformer.caption_channels),
    ):
        if one != other:
            problems.add(what, f"{one} and {other}")
    problems.raise_any(CheckpointError)


def _check_defaults(folder: ModelFolder) -> None:
    """Refuse defaults that nobody could ask for: the limits are a request's."""
    defaults = folder.defaults
    names = ("negative_prompt", "steps", "guidance_scale", "height", "width", "sampler")
    try:
        Request.of("", **{name: getattr(defaults, name) for name in names})
    except RequestError as error:
        said = str(error).partition(": ")[2].rstrip(".")
        raise CheckpointError(f"The defaults of the model in {folder.path} cannot be used: {said}.") from error


def _choose_dtype(name: str, device: torch.device, entries: Mapping[str, Mapping[str, Entry]]) -> torch.dtype:
    """Half-precision weights are safe in their own kind of half, or in float32; others in bfloat16, whose range is
    theirs."""
    sizes: Counter[torch.dtype] = Counter()
    for entry in (entry for part in entries.values() for entry in part.values()):
        if entry.dtype.is_floating_point:
            sizes[entry.dtype] += math.prod(entry.shape)
    halves = [dtype for dtype in (torch.float16, torch.bfloat16) if dtype in sizes]
    safe = [torch.float32, *(halves or [torch.bfloat16])] if len(halves) < 2 else [torch.float32]
    if name == "auto":
        mostly_half = safe[-1] in halves and 2 * sizes[safe[-1]] >= sizes.total()
        return safe[-1] if mostly_half and device.type != "cpu" else torch.float32
    known = {**DTYPES, **{short: DTYPES[long] for short, long in _SHORT.items()}}
    if name not in known:
        raise RequestError(f"dtype is {name!r}; give auto, {', '.join(DTYPES)}{nearest(name, known) or '.'}")
    if known[name] not in safe:
        use = " or ".join(str(dtype).removeprefix("torch.") for dtype in safe)
        raise RequestError(f"These weights are not safe in {name}; use --dtype {use}.")
    return known[name]
