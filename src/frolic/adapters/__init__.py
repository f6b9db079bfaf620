"""Adapters as files: read in any dialect, written in those that other programs read, and kept by name."""

from frolic.adapters.folder import find
from frolic.adapters.read import Target, read, target
from frolic.adapters.shelf import load, resolve
from frolic.adapters.write import FORMATS, write, write_experts

__all__ = ["FORMATS", "Target", "find", "load", "read", "resolve", "target", "write", "write_experts"]
