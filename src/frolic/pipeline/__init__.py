"""From a request to pictures."""

from frolic.pipeline.draw import Pipeline, Progress
from frolic.pipeline.inputs import Inputs
from frolic.pipeline.result import ModelCard, Result

__all__ = ["Inputs", "ModelCard", "Pipeline", "Progress", "Result"]
