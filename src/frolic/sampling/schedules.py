"""Noise levels of a sampler: float64 tensors ``[steps + 1]`` on the CPU that fall from near 1 to exactly 0.

float64, because the integer timestep a model is told is ``floor(1000 sigma)``, which diffusers' DPM-Solver takes of
float64 levels; in float32 some land on the wrong side of an integer. NVlabs' own code computes its levels in float32,
so its levels here are float32 values, and its timesteps are taken in float32. Solvers round to float32 where both do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from frolic.sampling.prediction import trig_level

TRAIN_STEPS = 1000

_NATIVE_EULER_SHIFT = 3.0

_TRIG_START, _TRIG_MIDDLE = 1.57080, 1.3
"""Where SANA-Sprint's times begin, and the one between of its two steps (diffusers' ``SanaSprintPipeline``)."""


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels up: ``s u / (1 + (s - 1) u)`` (Stable Diffusion 3, arXiv 2403.03206, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def flow_sigmas(steps: int, shift: float) -> Tensor:
    """Levels of diffusers' ``DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=shift)``."""
    assert steps >= 1 and shift > 0
    uniform = 1.0 - _linspace(1.0, 1.0 / TRAIN_STEPS, steps + 1)
    sigmas = shifted(uniform, shift).flip(0)
    sigmas[-1] = 0.0
    return sigmas


def euler_sigmas(steps: int, shift: float) -> Tensor:
    """Levels of diffusers' ``FlowMatchEulerDiscreteScheduler(shift=shift)``.

    The shift acts twice on the lower end, as it does there: once where the scheduler notes its smallest level, once on
    the levels spread between that and 1.
    """
    assert steps >= 1 and shift > 0
    ends = shifted(torch.tensor([1.0, 1.0 / TRAIN_STEPS]), shift).double() * TRAIN_STEPS
    uniform = _linspace(float(ends[0]), float(ends[1]), steps) / TRAIN_STEPS
    return torch.cat([shifted(uniform, shift), torch.zeros(1, dtype=torch.float64)])


def native_flow_sigmas(steps: int, shift: float) -> Tensor:
    """Levels of NVlabs' ``time_uniform_flow``: those of ``flow_sigmas``, computed in float32."""
    assert steps >= 1 and shift > 0
    uniform = 1.0 - torch.linspace(1.0, 1.0 / TRAIN_STEPS, steps + 1, dtype=torch.float32)
    return shifted(uniform, shift).flip(0).double()


def native_euler_sigmas(steps: int, shift: float) -> Tensor:
    """Levels of NVlabs' ``FlowEuler``: diffusers' in float32, and shifted by 3 for every picture model: the pipeline
    does not hand the model's ``shift`` on, so it is not used here either."""
    return euler_sigmas(steps, _NATIVE_EULER_SHIFT).float().double()


def unipc_sigmas(steps: int, shift: float) -> Tensor:
    """Levels of diffusers' ``UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=shift)``, which keeps the first
    just below 1, where its logarithms would end, and then rounds to float32."""
    assert steps >= 1 and shift > 0
    sigmas = shifted(_linspace(1.0, 1.0 / TRAIN_STEPS, steps + 1), shift)
    sigmas[0] -= 1e-6
    sigmas[-1] = 0.0
    return sigmas


def wan_sigmas(steps: int, shift: float) -> Tensor:
    """Levels of Wan's own code for its DPM-Solver (``get_sampling_sigmas``): from 1 in even steps, shifted. It has no
    Euler; ours takes them too."""
    assert steps >= 1 and shift > 0
    return shifted(_linspace(1.0, 0.0, steps + 1), shift)


def wan_unipc_sigmas(steps: int, shift: float) -> Tensor:
    """Those of its default solver (``FlowUniPCMultistepScheduler.set_timesteps``): even steps from the highest of a
    thousand trained levels, a float32 number below 1, so that no step starts where its logarithms end."""
    assert steps >= 1 and shift > 0
    highest = float(torch.tensor(1 - 1 / TRAIN_STEPS, dtype=torch.float32))
    return shifted(_linspace(highest, 0.0, steps + 1), shift)


def scm_sigmas(steps: int, shift: float) -> Tensor:
    """Levels of diffusers' ``SCMScheduler`` as ``SanaSprintPipeline`` asks for them: TrigFlow times in even steps, but
    for two steps, whose second is at 1.3. There is no ``shift``."""
    assert steps >= 1
    times = [_TRIG_START, _TRIG_MIDDLE] if steps == 2 else _linspace(_TRIG_START, 0.0, steps + 1)[:-1].tolist()
    return time_sigmas(times)


def time_sigmas(times: Sequence[float]) -> Tensor:
    """The levels [steps + 1] of falling TrigFlow ``times``, one for each step, in radians. What lies over pi/2, as
    the 1.57080 of published pipelines does, is pi/2: all noise."""
    falling = torch.tensor([*times, 0.0], dtype=torch.float64).clamp_max(math.pi / 2)
    return trig_level(falling).clamp_max(1.0)


def level_timesteps(sigma: Tensor) -> Tensor:
    """The level itself, 0 to 1, which is what Sprint's networks are told."""
    return sigma.double()


def exact_timesteps(sigma: Tensor) -> Tensor:
    """``1000 sigma`` with its fraction."""
    return sigma.double() * TRAIN_STEPS


def truncated_timesteps(sigma: Tensor) -> Tensor:
    """``floor(1000 sigma)`` in float64."""
    return (sigma.double() * TRAIN_STEPS).floor()


def truncated_float32_timesteps(sigma: Tensor) -> Tensor:
    """``floor(1000 sigma)`` in float32, where the product may round up to the next integer first."""
    return (sigma.float() * TRAIN_STEPS).floor()


@dataclass(frozen=True)
class Schedule:
    """``sigmas``: ``(steps, shift)`` to levels [steps + 1]. ``timesteps``: levels to what the network is told."""

    sigmas: Callable[[int, float], Tensor]
    timesteps: Callable[[Tensor], Tensor]


SCHEDULES: Mapping[str, Mapping[str, Schedule]] = MappingProxyType(
    {
        "diffusers": MappingProxyType(
            {
                "dpmpp": Schedule(flow_sigmas, truncated_timesteps),
                "euler": Schedule(euler_sigmas, exact_timesteps),
                "unipc": Schedule(unipc_sigmas, truncated_timesteps),
                "scm": Schedule(scm_sigmas, level_timesteps),
            }
        ),
        # NVlabs' network truncates whatever timestep it is given, so there Euler's lose their fraction too.
        "native": MappingProxyType(
            {
                "dpmpp": Schedule(native_flow_sigmas, truncated_float32_timesteps),
                "euler": Schedule(native_euler_sigmas, truncated_float32_timesteps),
                "unipc": Schedule(native_flow_sigmas, truncated_float32_timesteps),
                "scm": Schedule(scm_sigmas, level_timesteps),
            }
        ),
        "wan": MappingProxyType(
            {
                **{grid: Schedule(wan_sigmas, truncated_timesteps) for grid in ("dpmpp", "euler")},
                "unipc": Schedule(wan_unipc_sigmas, truncated_timesteps),
                "scm": Schedule(scm_sigmas, level_timesteps),
            }
        ),
    }
)
"""By whose code it is and by the grid of the solver: what ``Sampler.schedule`` looks up."""


def tail(sigmas: Tensor, strength: float) -> Tensor:
    """The last part of a schedule, for starting from a picture: ``strength`` (0, 1] is the share of steps that is left.

    Counts as ``get_timesteps`` of diffusers' image-to-image pipelines for flow models: ``int(N - N strength)`` steps
    are skipped. At least one step is left, however small ``strength`` is.
    """
    assert 0 < strength <= 1
    steps = len(sigmas) - 1
    return sigmas[min(int(steps - steps * strength), steps - 1) :]


def _linspace(start: float, stop: float, count: int) -> Tensor:
    """Evenly spaced float64 values, each computed from ``start`` as numpy does (torch counts from both ends)."""
    if count == 1:
        return torch.tensor([start], dtype=torch.float64)
    step = (stop - start) / (count - 1)
    values = torch.arange(count, dtype=torch.float64) * step + start
    values[-1] = stop
    return values
