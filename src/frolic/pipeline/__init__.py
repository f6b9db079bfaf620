"""From a request to pictures."""

from frolic.pipeline.draw import Pipeline, Progress
from frolic.pipeline.result import ModelCard, Result

__all__ = ["ModelCard", "Pipeline", "Progress", "Result"]
