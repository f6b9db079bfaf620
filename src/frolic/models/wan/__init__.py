"""The Wan transformer: text to video."""

from frolic.models.wan.block import WanBlock, WanState
from frolic.models.wan.config import WanConfig
from frolic.models.wan.keymap import diffusers_keys, original_keys
from frolic.models.wan.model import WanTransformer

__all__ = ["WanBlock", "WanConfig", "WanState", "WanTransformer", "diffusers_keys", "original_keys"]
