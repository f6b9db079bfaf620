"""Adapters as files: read in any dialect, written in those that other programs read."""

from frolic.adapters.read import Target, find, load, read, target
from frolic.adapters.write import FORMATS, write

__all__ = ["FORMATS", "Target", "find", "load", "read", "target", "write"]
