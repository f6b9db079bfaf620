"""Rewrite a published part in another naming, or in another dtype, tensor by tensor."""

from frolic.convert.run import TARGETS, Converted, convert

__all__ = ["TARGETS", "Converted", "convert"]
