"""Which checkpoint a run goes on from, and whether it may."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from frolic.errors import CheckpointError, ConfigError, FileError
from frolic.train.jobs import Job
from frolic.train.state import CheckpointStore, Snapshot, checkpoint_step, is_checkpoint, load_checkpoint

CHECKPOINTS = "checkpoints"


def find_snapshot(store: CheckpointStore, resume: str, note: Callable[[str], None]) -> Snapshot | None:
    """The snapshot to continue from, or None for a new run.

    Args:
        resume: ``auto`` (the newest of this run, if any), ``never``, or the path of a checkpoint or a run's folder.

    Raises:
        FileError: ``never``, but the folder holds a run. CheckpointError: there is nothing that can be used.
    """
    present = sorted(store.folder.glob("step-*")) if store.folder.is_dir() else []
    if resume == "never":
        if present:
            raise FileError(f"{store.folder} already holds a run; set another output.folder or resume it.")
        return None
    if resume != "auto":
        path = _checkpoint_at(Path(resume).expanduser())
        later = [other for other in present if other.resolve() != path.resolve()]
        later = [other for other in later if checkpoint_step(other) > checkpoint_step(path)]
        if later:
            raise FileError(f"{store.folder} holds later checkpoints than {path}; remove them or set output.folder.")
        return load_checkpoint(path)
    for path in reversed(present):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            note(f"{error} It was set aside as {store.set_aside(path).name}; going on from the one before.")
    if present:
        raise CheckpointError(f"No checkpoint in {store.folder} can be read; use --resume never in another folder.")
    return None


def _checkpoint_at(path: Path) -> Path:
    if is_checkpoint(path):
        return path
    complete = CheckpointStore(path / CHECKPOINTS, 1).complete()
    if not complete:
        raise CheckpointError(f"{path} is neither a complete checkpoint nor the folder of a run that has one.")
    return complete[-1]


def warm_start(path: Path, job: Job) -> None:
    """Weights only, averaged where there are averages, from a checkpoint, a run's folder or an exported folder.

    Raises:
        CheckpointError: the weights are of another model. ConfigError: nothing usable is there.
    """
    if is_checkpoint(path) or (path / CHECKPOINTS).is_dir():
        tensors = load_checkpoint(_checkpoint_at(path)).tensors
        for name, module in job.objective.modules().items():
            load_module(module, tensors.get(f"{name}.ema", tensors.get(name, {})), name)
    elif path.is_dir() and job.warm_start is not None:
        job.warm_start(path)
    else:
        raise ConfigError(f"trainer.init_from: {path} is not a checkpoint, a run's folder or an exported folder.")


def load_module(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load strictly.

    Raises:
        CheckpointError: listing missing, unexpected and misshapen weights.
    """
    own = module.state_dict()
    wrong = [f"missing {key}" for key in own if key not in state]
    wrong += [f"unexpected {key}" for key in state if key not in own]
    wrong += [
        f"{key} is {list(state[key].shape)}, not {list(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if wrong:
        more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        listed = "".join(f"\n  {line}" for line in wrong[:20])
        raise CheckpointError(f"The weights of {name} do not fit the recipe's model:{listed}{more}")
    module.load_state_dict(dict(state))


def check_same(recipe: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Compare a recipe (as plain data) with the one its checkpoint was made with.

    Returns:
        What differs and may: one line each.

    Raises:
        ConfigError: the kind of job or the model differs; lists the keys.
    """
    differences = {
        key: f"{key}: {before!r} in the checkpoint, now {now!r}"
        for key, (before, now) in _differences(stored, recipe, ()).items()
    }
    fatal = [line for key, line in differences.items() if key == "job.kind" or key.split(".")[0] == "model"]
    if fatal:
        listed = "".join(f"\n  {line}" for line in fatal)
        raise ConfigError(f"The checkpoint is of another model; undo this or set another output.folder:{listed}")
    return [line for key, line in differences.items() if key.split(".")[0] not in ("description", "output")]


def check_inputs(inputs: Mapping[str, str], stored: Mapping[str, str]) -> None:
    """Compare what a run is made from, other models and data, with what its checkpoint was made from.

    Raises:
        ConfigError: listing what has changed. The rest of the run would fit neither.
    """
    changed = [name for name, mark in stored.items() if inputs.get(name, mark) != mark]
    if changed:
        raise ConfigError(
            f"The checkpoint was made with another {' and another '.join(changed)}; bring that back, or start again "
            "with another output.folder."
        )


def _differences(before: Any, now: Any, path: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*before, *(key for key in now if key not in before)]:
            found |= _differences(before.get(key), now.get(key), (*path, key))
        return found
    return {} if before == now else {".".join(path): (before, now)}
