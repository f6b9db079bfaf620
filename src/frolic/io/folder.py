"""Open a model folder in diffusers' layout: every setting is read and checked before a weight is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from frolic.errors import CheckpointError, ModelError, ModelNotFoundError, UnsafeFileError, nearest
from frolic.io.files import read_json_object
from frolic.io.problems import Problems
from frolic.io.safetensors import find_weights, refuse_pickle
from frolic.spec import ComponentSpec, FamilySpec, SamplingDefaults

INDEX, OWN = "model_index.json", "frolic.json"
_SCHEDULER_FILE = Path("scheduler", "scheduler_config.json")
_NOT_WEIGHTS = ("scheduler", "tokenizer")


@dataclass(frozen=True)
class Component:
    """One part with weights: ``config`` is what its spec made of ``config.json``, ``weights`` a file or shard index."""

    name: str
    spec: ComponentSpec
    config: Any
    weights: Path


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose settings were all understood. ``name`` never holds a path."""

    path: Path
    name: str
    version: str
    family: FamilySpec
    components: Mapping[str, Component]
    tokenizer: Path
    defaults: SamplingDefaults
    prompt_suffix: str

    @property
    def settings(self) -> tuple[Path, ...]:
        """The files besides the weights that decide what the model draws, in a fixed order."""
        configs = [self.path / name / "config.json" for name in sorted(self.components)]
        own = [self.path / OWN] if (self.path / OWN).is_file() else []
        return (*configs, self.path / _SCHEDULER_FILE, *own, self.tokenizer)


@dataclass(frozen=True)
class _Scheduler:
    """What a published scheduler's settings mean here: ``fixed`` must have these values where they are given at all."""

    sampler: str
    shift: str
    fixed: Mapping[str, Any]
    ignored: frozenset[str]


_SCHEDULERS = {
    "DPMSolverMultistepScheduler": _Scheduler(
        sampler="dpmpp_2m",
        shift="flow_shift",
        fixed={
            "algorithm_type": "dpmsolver++",
            "euler_at_final": False,
            "final_sigmas_type": "zero",
            "lambda_min_clipped": -math.inf,
            "lower_order_final": True,
            "num_train_timesteps": 1000,
            "prediction_type": "flow_prediction",
            "solver_order": 2,
            "solver_type": "midpoint",
            "thresholding": False,
            "use_beta_sigmas": False,
            "use_dynamic_shifting": False,
            "use_exponential_sigmas": False,
            "use_flow_sigmas": True,
            "use_karras_sigmas": False,
            "use_lu_lambdas": False,
        },
        # These shape the variance-preserving schedule, which flow sigmas replace.
        ignored=frozenset(
            {
                *(
                    "beta_start",
                    "beta_end",
                    "beta_schedule",
                    "trained_betas",
                    "rescale_betas_zero_snr",
                    "variance_type",
                ),
                *(
                    "dynamic_thresholding_ratio",
                    "sample_max_value",
                    "timestep_spacing",
                    "steps_offset",
                    "time_shift_type",
                ),
            }
        ),
    ),
    "FlowMatchEulerDiscreteScheduler": _Scheduler(
        sampler="euler",
        shift="shift",
        fixed={
            "invert_sigmas": False,
            "num_train_timesteps": 1000,
            "shift_terminal": None,
            "stochastic_sampling": False,
            "use_beta_sigmas": False,
            "use_dynamic_shifting": False,
            "use_exponential_sigmas": False,
            "use_karras_sigmas": False,
        },
        ignored=frozenset({"base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"}),
    ),
}

_OWN_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "family": str,
    "name": str,
    "version": str,
    "height": int,
    "width": int,
    "steps": int,
    "guidance_scale": (int, float),
    "sampler": str,
    "shift": (int, float),
    "max_tokens": int,
    "negative_prompt": str,
    "lowercase": bool,
    "prompt_suffix": str,
}

# What is in a request too has a request's limits, which hold for the defaults as a whole.
_LIMITS: Mapping[str, tuple[float, float]] = {"shift": (0.01, 100), "max_tokens": (1, 8192)}


def open_folder(path: Path, families: Mapping[str, FamilySpec]) -> ModelFolder:
    """Read and check ``model_index.json``, every ``config.json``, the scheduler's settings and ``frolic.json``.

    Raises:
        ModelNotFoundError: ``path`` is not a model folder.
        UnsafeFileError: it is a pickle, or holds only pickles.
        CheckpointError: listing everything in it that is missing, unknown or unsupported.
    """
    if path.is_file():
        refuse_pickle(path)
        raise ModelNotFoundError(f"{path} is a file; give the model's folder, the one that holds {INDEX}.")
    if not path.is_dir():
        raise ModelNotFoundError(f"There is no model folder {path}; check the name.")
    if not (path / INDEX).is_file():
        for file in path.iterdir():
            if file.is_file():
                refuse_pickle(file)
        raise ModelNotFoundError(f"{path} is not a model folder: it has no {INDEX}; give the folder that holds one.")
    index = read_json_object(path / INDEX)
    family = _family(path, index.get("_class_name"), families)
    problems = Problems(f"The model in {path} cannot be used; get its files again or choose another")
    expected = [*family.components, *_NOT_WEIGHTS]
    for key in index:
        if key not in expected and not key.startswith("_"):
            problems.add("unknown component", key, near=expected)
    components = {}
    for name, spec in family.components.items():
        component = _component(path, name, spec, index.get(name), problems)
        if component is not None:
            components[name] = component
    tokenizer = path / "tokenizer" / "tokenizer.json"
    if not tokenizer.is_file():
        problems.add("missing", "tokenizer/tokenizer.json")
    scheduled = _scheduler(path, problems)
    own = _own(path, family, problems)
    problems.raise_any(CheckpointError)
    named = {field.name for field in fields(SamplingDefaults)}
    defaults = replace(family.defaults, **{**scheduled, **{key: own[key] for key in own if key in named}})
    return ModelFolder(
        path=path,
        name=own.get("name", path.resolve().name),
        version=own.get("version", ""),
        family=family,
        components=MappingProxyType(components),
        tokenizer=tokenizer,
        defaults=defaults,
        prompt_suffix=own.get("prompt_suffix", ""),
    )


def _family(path: Path, class_name: Any, families: Mapping[str, FamilySpec]) -> FamilySpec:
    for family in families.values():
        if family.pipeline_class == class_name:
            return family
    known = [family.pipeline_class for family in families.values()]
    hint = nearest(str(class_name), known) or f"; supported: {', '.join(known)}."
    raise CheckpointError(f"{path / INDEX} names the pipeline {class_name!r}, which frolic does not know{hint}")


def _component(path: Path, name: str, spec: ComponentSpec, entry: Any, problems: Problems) -> Component | None:
    """The part in ``path/name``, or None after noting what is wrong with it."""
    class_name = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
    if class_name not in spec.class_names:
        problems.add("unsupported", f"{name} is {class_name!r}, supported: {', '.join(spec.class_names)}")
        return None
    if not (path / name).is_dir():
        problems.add("missing", f"{name}/")
        return None
    config = weights = None
    try:
        config = spec.configure(read_json_object(path / name / "config.json"))
    except CheckpointError as error:
        problems.add("settings", f"{name}: {error}")
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        problems.add("settings", f"{name}/config.json has a value of the wrong kind ({error})")
    try:
        weights = find_weights(path / name)
    except UnsafeFileError:
        raise
    except ModelError as error:
        problems.add("weights", str(error))
    return None if config is None or weights is None else Component(name, spec, config, weights)


def _scheduler(path: Path, problems: Problems) -> dict[str, Any]:
    """Sampler and shift from ``scheduler/scheduler_config.json``."""
    try:
        raw = read_json_object(path / _SCHEDULER_FILE)
    except CheckpointError as error:
        problems.add("settings", str(error))
        return {}
    known = _SCHEDULERS.get(str(raw.get("_class_name")))
    if known is None:
        problems.add("unsupported", f"scheduler {raw.get('_class_name')!r}, supported: {', '.join(_SCHEDULERS)}")
        return {}
    for key, value in raw.items():
        if key in known.fixed:
            if value != known.fixed[key]:
                problems.add("unsupported", f"scheduler {key}={value!r}, needs {known.fixed[key]!r}")
        elif key != known.shift and key not in known.ignored and not key.startswith("_"):
            problems.add(
                "unknown setting", f"scheduler {key}", near=[f"scheduler {k}" for k in (*known.fixed, known.shift)]
            )
    shift = raw.get(known.shift, 1.0)
    low, high = _LIMITS["shift"]
    if not _number(shift) or not low <= shift <= high:
        problems.add("settings", f"scheduler {known.shift} is {shift!r}; it must be {low} to {high}")
        return {}
    return {"sampler": known.sampler, "shift": float(shift)}


def _own(path: Path, family: FamilySpec, problems: Problems) -> dict[str, Any]:
    """``frolic.json``, where the folder has one."""
    if not (path / OWN).is_file():
        return {}
    try:
        raw = read_json_object(path / OWN)
    except CheckpointError as error:
        problems.add("settings", str(error))
        return {}
    for key, value in raw.items():
        if key not in _OWN_KEYS:
            problems.add("unknown setting", f"{OWN}: {key}", near=[f"{OWN}: {known}" for known in _OWN_KEYS])
        elif said := _unfit(key, value):
            problems.add("settings", f"{OWN}: {key} {said}")
    if raw.get("family", family.name) != family.name:
        problems.add("settings", f"{OWN}: family is {raw['family']!r}, but {INDEX} is one of {family.name!r}")
    if "sampler" in raw and raw["sampler"] not in [s.sampler for s in _SCHEDULERS.values()]:
        problems.add("settings", f"{OWN}: sampler {raw['sampler']!r} is not known")
    return raw


def _unfit(key: str, value: Any) -> str:
    """What is wrong with a setting of ``frolic.json``, if anything."""
    kind = _OWN_KEYS[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return f"is {value!r}"
    if kind is str:
        return "" if _plain(str(value)) else "is not valid Unicode text"
    if kind is bool:
        return ""
    low, high = _LIMITS.get(key, (0, math.inf))
    number: Any = value
    if not _number(number) or number <= 0:
        return f"is {value!r}; it must be above 0"
    return "" if low <= number <= high else f"is {value!r}; it must be {low} to {high}"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _plain(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)
