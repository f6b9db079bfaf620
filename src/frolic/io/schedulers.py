"""What a published scheduler's settings mean here."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frolic.errors import CheckpointError
from frolic.io.files import read_json_object
from frolic.io.problems import Problems

SCHEDULER = Path("scheduler", "scheduler_config.json")
SHIFTS = (0.01, 100.0)


@dataclass(frozen=True)
class _Scheduler:
    """``samplers`` names ours by the values of the ``choices``, each of which may be absent and then is the first value
    of its own; settings in ``fixed`` must have one of these values where they are given at all."""

    choices: Mapping[str, Collection[Any]]
    samplers: Mapping[tuple[Any, ...], str]
    shift: str | None
    fixed: Mapping[str, Collection[Any]]
    ignored: frozenset[str]


# These shape the variance-preserving schedule, which flow sigmas replace.
_VARIANCE_PRESERVING = frozenset(
    {
        *("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
        *("dynamic_thresholding_ratio", "sample_max_value", "timestep_spacing", "steps_offset", "time_shift_type"),
    }
)

_SCHEDULERS = {
    "DPMSolverMultistepScheduler": _Scheduler(
        choices={"solver_order": (2, 1, 3), "solver_type": ("midpoint", "heun"), "lower_order_final": (True, False)},
        # A last step to noise zero is of first order anyway: at orders 1 and 2 it does not matter what is said of it.
        samplers={
            **{(1, kind, lower): "dpmpp_1s" for kind in ("midpoint", "heun") for lower in (True, False)},
            **{(2, "midpoint", lower): "dpmpp_2m" for lower in (True, False)},
            **{(2, "heun", lower): "dpmpp_2m_heun" for lower in (True, False)},
            (3, "midpoint", True): "dpmpp_3m",
            (3, "heun", True): "dpmpp_3m_heun",
        },
        shift="flow_shift",
        fixed={
            "algorithm_type": ("dpmsolver++",),
            "euler_at_final": (False, True),
            "final_sigmas_type": ("zero",),
            "lambda_min_clipped": (-math.inf,),
            "num_train_timesteps": (1000,),
            "prediction_type": ("flow_prediction",),
            "thresholding": (False,),
            "use_beta_sigmas": (False,),
            "use_dynamic_shifting": (False,),
            "use_exponential_sigmas": (False,),
            "use_flow_sigmas": (True,),
            "use_karras_sigmas": (False,),
            "use_lu_lambdas": (False,),
        },
        ignored=_VARIANCE_PRESERVING | {"variance_type"},
    ),
    "UniPCMultistepScheduler": _Scheduler(
        choices={},
        samplers={(): "unipc"},
        shift="flow_shift",
        fixed={
            "disable_corrector": ([],),
            "final_sigmas_type": ("zero",),
            "lower_order_final": (True,),
            "num_train_timesteps": (1000,),
            "predict_x0": (True,),
            "prediction_type": ("flow_prediction",),
            "shift_terminal": (None,),
            "sigma_max": (None,),
            "sigma_min": (None,),
            "solver_order": (2,),
            "solver_p": (None,),
            "solver_type": ("bh2",),
            "thresholding": (False,),
            "use_beta_sigmas": (False,),
            "use_dynamic_shifting": (False,),
            "use_exponential_sigmas": (False,),
            "use_flow_sigmas": (True,),
            "use_karras_sigmas": (False,),
        },
        ignored=_VARIANCE_PRESERVING,
    ),
    "SCMScheduler": _Scheduler(
        choices={},
        samplers={(): "scm"},
        shift=None,
        fixed={"num_train_timesteps": (1000,), "prediction_type": ("trigflow",)},
        # All that it scales is divided by it again before the network sees it.
        ignored=frozenset({"sigma_data"}),
    ),
    "FlowMatchEulerDiscreteScheduler": _Scheduler(
        choices={},
        samplers={(): "euler"},
        shift="shift",
        fixed={
            "invert_sigmas": (False,),
            "num_train_timesteps": (1000,),
            "shift_terminal": (None,),
            "stochastic_sampling": (False,),
            "use_beta_sigmas": (False,),
            "use_dynamic_shifting": (False,),
            "use_exponential_sigmas": (False,),
            "use_karras_sigmas": (False,),
        },
        ignored=frozenset({"base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"}),
    ),
}


def read_scheduler(path: Path, problems: Problems) -> dict[str, Any]:
    """Sampler and shift from the ``scheduler/scheduler_config.json`` in ``path``; what is wrong is noted."""
    try:
        raw = read_json_object(path / SCHEDULER)
    except CheckpointError as error:
        problems.add("settings", str(error))
        return {}
    known = _SCHEDULERS.get(str(raw.get("_class_name")))
    if known is None:
        problems.add("unsupported", f"scheduler {raw.get('_class_name')!r}, supported: {', '.join(_SCHEDULERS)}")
        return {}
    allowed = {**known.fixed, **known.choices}
    near = [f"scheduler {key}" for key in filter(None, (*allowed, known.shift))]
    for key, value in raw.items():
        if key in allowed:
            if value not in allowed[key]:
                needs = " or ".join(repr(one) for one in allowed[key])
                problems.add("unsupported", f"scheduler {key}={value!r}, needs {needs}")
        elif key != known.shift and key not in known.ignored and not key.startswith("_"):
            problems.add("unknown setting", f"scheduler {key}", near=near)
    chosen = tuple(raw.get(key, next(iter(values))) for key, values in known.choices.items())
    sampler = next((name for values, name in known.samplers.items() if values == chosen), None)
    if sampler is None:
        said = ", ".join(f"{key}={value!r}" for key, value in zip(known.choices, chosen, strict=True))
        problems.add("unsupported", f"scheduler with {said} together")
        return {}
    shift = 1.0 if known.shift is None else raw.get(known.shift, 1.0)
    low, high = SHIFTS
    if isinstance(shift, bool) or not isinstance(shift, (int, float)) or not low <= shift <= high:
        problems.add("settings", f"scheduler {known.shift} is {shift!r}; it must be {low:g} to {high:g}")
        return {}
    return {"sampler": sampler, "shift": float(shift)}
