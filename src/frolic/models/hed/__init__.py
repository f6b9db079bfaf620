"""Holistically-nested edges."""

from frolic.models.hed.model import HED, published_keys

__all__ = ["HED", "published_keys"]
