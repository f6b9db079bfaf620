"""The student of a few steps, made of its teacher: the same weights, told time and guidance in Sprint's way.

D width, F frequencies, K knots.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.sana.config import SanaConfig
from frolic.models.sana.model import SanaTransformer
from frolic.nn.embed import TimestepEmbedder, sinusoid
from frolic.sampling.schedules import TRAIN_STEPS

_SLOPE, _RIDGE, _POINTS = 32.0, 1e-6, 2001


def student_config(teacher: SanaConfig) -> SanaConfig:
    """Sprint's: time as the noise level itself, 0 to 1, and a guidance scale beside it."""
    return replace(teacher, guidance_embeds=True, timestep_scale=1.0)


def student_of(teacher: SanaTransformer) -> SanaTransformer:
    """A float32 model that predicts what ``teacher`` predicts, whatever guidance it is told: that embedder is new, and
    its last layer zero. As TrigFlow (``trig_from_flow``) it is the teacher converted: nothing else has to change.

    Where the teacher counts time from 0 to 1000, its embedding of time is fitted anew over the noise level. Taken over
    as it is, its derivative by the level would be a thousand times that of its sinusoids, and the tangent of training
    noise (arXiv 2503.09641, section 3.2, trains a teacher further for this).
    """
    assert not teacher.config.guidance_embeds
    device = next(teacher.parameters()).device
    # What is copied needs no start of its own.
    with torch.device("meta"):
        student = SanaTransformer(student_config(teacher.config))
    guidance = TimestepEmbedder(teacher.config.width)
    nn.init.zeros_(guidance.fc2.weight)
    nn.init.zeros_(guidance.fc2.bias)
    state = {name: tensor.detach().to(device, torch.float32).clone() for name, tensor in teacher.state_dict().items()}
    state |= {f"guidance.{name}": tensor.detach().to(device) for name, tensor in guidance.state_dict().items()}
    if teacher.config.timestep_scale * TRAIN_STEPS != 1:
        fitted = dense_time(teacher.time, teacher.config.timestep_scale)
        state |= {f"time.{name}": tensor.to(device) for name, tensor in fitted.items()}
    student.load_state_dict(state, assign=True)
    return student.requires_grad_(True)


def dense_time(time: TimestepEmbedder, scale: float) -> dict[str, Tensor]:
    """The weights of an embedder of noise levels, 0 to 1, that gives what ``time`` gives of 1000 times them.

    One hidden unit is a bend of its own at each of as many knots as there are, over the sine of the level, which the
    features hold; the last layer is the least-squares fit to them. What of the old embedding changes faster than the
    knots are dense, which no model needs, is not in it.
    """
    level = torch.linspace(0, 1, _POINTS)
    with torch.no_grad():
        goal = time((TRAIN_STEPS * scale * level).to(time.fc1.weight.device)).double().cpu()
    hidden = time.fc1.out_features
    first = torch.zeros(hidden, time.frequencies)
    first[:, time.frequencies // 2] = _SLOPE  # the sine of the level itself
    knots = torch.linspace(-0.05, math.sin(1.0) + 0.05, hidden)
    features = sinusoid(level, time.frequencies).double()
    bends = F.silu(features @ first.double().t() - _SLOPE * knots.double())
    columns = torch.cat([bends, torch.ones(_POINTS, 1, dtype=torch.float64)], dim=1)
    normal = columns.t() @ columns + _RIDGE * _POINTS * torch.eye(hidden + 1, dtype=torch.float64)
    fitted = torch.linalg.solve(normal, columns.t() @ goal).float()
    weights = {"fc1.weight": first, "fc1.bias": -_SLOPE * knots}
    weights |= {"fc2.weight": fitted[:-1].t().contiguous(), "fc2.bias": fitted[-1].contiguous()}
    return weights
