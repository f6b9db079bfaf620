"""Rewards that are not differentiated: a Python function of the user's own, and what all of them share.

B clips, T frames of each, H/W sides of a frame.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from frolic.errors import ConfigError, FrolicError
from frolic.rewards.base import Base

if TYPE_CHECKING:
    import numpy as np

Function = Callable[["np.ndarray", list[str]], Any]
"""Of uint8 [B, T, H, W, 3] and B prompts: B numbers."""


class Called(Base):
    """What a Python function says: ``python:MODULE:FUNCTION``, or ``python:FILE.py:FUNCTION``.

    It is called with the frames, uint8 [B, T, H, W, 3], and the prompts, and gives back one number for each clip; its
    module is imported, and so runs, when the reward is made. Detectors and counters come in by this way. The judge of
    ``frolic eval`` is not for it: what is trained against stops being a measure.

    Raises:
        ConfigError: there is no such module or function, it does not import, or what it gives back is not B numbers.
        FileError: there is no such file.
    """

    differentiable = False

    def __init__(self, address: str, function: Function | None = None) -> None:
        super().__init__()
        self.name = address
        self.function = function or find(address)

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        try:
            values = self.function(as_bytes(frames_BT3HW), list(prompts))
        except FrolicError:
            raise
        except Exception as error:  # a function of the user's own raises what it likes
            raise ConfigError(
                f"The reward {self.name} failed ({type(error).__name__}: {error}); --debug shows where."
            ) from error
        try:
            scores = as_scores(values, len(prompts))
        except ValueError as error:
            raise ConfigError(f"The reward {self.name} {error}; let it return a list of floats.") from error
        return scores.to(frames_BT3HW.device)


def find(address: str) -> Function:
    """The function that ``python:MODULE:FUNCTION`` names. Raises as ``Called``."""
    place, colon, name = address.removeprefix("python:").rpartition(":")
    if not (place and colon and all(part.isidentifier() for part in name.split("."))):
        raise ConfigError(f"{address!r} is not python:MODULE:FUNCTION or python:FILE.py:FUNCTION.")
    try:
        found: Any = _from_file(Path(place).expanduser()) if place.endswith(".py") else import_module(place)
    except FrolicError:
        raise
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"There is no module {error.name} for {address}; install it, put its folder on PYTHONPATH, or name a file, "
            "as python:scorer.py:score."
        ) from error
    except Exception as error:  # so does a module
        raise ConfigError(f"{address} cannot be imported ({type(error).__name__}: {error}).") from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(f"There is no function {name} in {place}, which {address} names.")
    function: Function = found
    return function


def _from_file(path: Path) -> ModuleType:
    from frolic.io.files import existing_file

    # By the whole path: two files of one name are two modules.
    mark = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = util.spec_from_file_location(f"frolic_reward_{path.stem}_{mark}", existing_file(path))
    assert spec is not None and spec.loader is not None, "the name ends in .py"
    module = util.module_from_spec(spec)
    # Where what is in it is looked up by its module's name: dataclasses do.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def as_bytes(frames_BT3HW: Tensor) -> np.ndarray:
    """uint8 [B, T, H, W, 3] of ``[B, T, 3, H, W]`` in [0, 1], rounded as files are."""
    whole = (frames_BT3HW.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    array: np.ndarray = whole.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
    return array


def as_scores(values: Any, count: int) -> Tensor:
    """``[count]`` in float32 of what somebody answered. Raises ValueError, continuing "the reward ..."."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"gave back {str(values)[:80]!r}, which is not {count} numbers") from None
    if len(numbers) != count:
        raise ValueError(f"gave back {len(numbers)} numbers for {count} clips")
    return torch.tensor(numbers, dtype=torch.float32)
