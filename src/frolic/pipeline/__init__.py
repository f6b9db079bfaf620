"""From a request to pictures."""

from frolic.pipeline.draw import Pipeline
from frolic.pipeline.inputs import Inputs
from frolic.pipeline.progress import Progress
from frolic.pipeline.result import ModelCard, Result

__all__ = ["Inputs", "ModelCard", "Pipeline", "Progress", "Result"]
