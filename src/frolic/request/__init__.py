"""What a user asks for, checked as a whole before anything is computed. Without torch: a refusal is immediate."""

from frolic.request.checks import (
    MAX_FPS,
    MAX_FRAMES,
    MAX_GUIDANCE,
    MAX_LAYER,
    MAX_PICTURES,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    SAMPLERS,
    SCHEDULES,
)
from frolic.request.few import IMPLIED_STRENGTH, kept_nothing, suits
from frolic.request.request import RECORDED, UNSAID, Request
from frolic.request.sizes import batch_size, parse_aspect
from frolic.sampling.few import FEW, MOST

__all__ = [
    "FEW",
    "IMPLIED_STRENGTH",
    "MAX_FPS",
    "MAX_FRAMES",
    "MAX_GUIDANCE",
    "MAX_LAYER",
    "MAX_PICTURES",
    "MAX_PROMPT",
    "MAX_SEED",
    "MAX_SIDE",
    "MAX_STEPS",
    "MOST",
    "RECORDED",
    "SAMPLERS",
    "SCHEDULES",
    "UNSAID",
    "Request",
    "batch_size",
    "kept_nothing",
    "parse_aspect",
    "suits",
]
