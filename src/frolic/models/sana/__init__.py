"""SANA's linear-attention diffusion transformer (Xie et al. 2024, arXiv 2410.10629)."""

from frolic.models.sana.config import SanaConfig
from frolic.models.sana.keymap import diffusers_keys
from frolic.models.sana.model import SanaBlock, SanaContext, SanaState, SanaTransformer

__all__ = ["SanaBlock", "SanaConfig", "SanaContext", "SanaState", "SanaTransformer", "diffusers_keys"]
