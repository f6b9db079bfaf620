"""A small dual encoder: how well a picture and a text go together; and heads on it that say what someone likes."""

from frolic.models.dual.config import DualConfig
from frolic.models.dual.head import PreferenceHead, bradley_terry, describe, described, parts
from frolic.models.dual.model import DualEncoder

__all__ = ["DualConfig", "DualEncoder", "PreferenceHead", "bradley_terry", "describe", "described", "parts"]
