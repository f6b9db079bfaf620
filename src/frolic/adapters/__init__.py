"""Adapters as files: read in any dialect, written in those that other programs read."""

from frolic.adapters.read import Target, read, target

__all__ = ["Target", "read", "target"]
